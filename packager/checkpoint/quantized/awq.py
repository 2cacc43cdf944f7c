"""AWQ in AutoAWQ's "gemm" version.

qweight int32 [in, out / 8] and qzeros int32 [groups, out / 8], eight 4-bit values a word along the output features in
an order of their own; scales [groups, out]. Source: `WQLinear_GEMM.from_linear` in AutoAWQ's
awq/modules/linear/gemm.py. The other versions (gemv, gemv_fast, marlin, exllama) pack differently.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import AliasChoices, Field, field_validator

from packager.checkpoint.quantized.format import Format
from packager.checkpoint.quantized.groups import grouped, successive
from packager.checkpoint.quantized.layer import Layer
from packager.checkpoint.quantized.packing import dequantize, unpack

_MIDDLE = 8
# A word's nibbles hold columns 0 2 4 6 1 3 5 7; this is where columns 0, 1, 2 … are found.
_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]


class Awq(Format):
    """The fields are those of transformers' AwqConfig."""

    parts: ClassVar[frozenset[str]] = frozenset({"qweight", "qzeros", "scales"})

    bits: Literal[4] = 4
    group_size: int = Field(default=128, ge=-1)
    zero_point: bool = True
    version: Literal["gemm"] = Field(default="gemm", validation_alias=AliasChoices("version", "format"))

    @field_validator("version", mode="before")
    @classmethod
    def _lower(cls, version: Any) -> Any:
        return version.lower() if isinstance(version, str) else version

    @property
    def stored(self) -> str:
        return f"awq, 4 bits, {grouped(self.group_size)}, {'asymmetric' if self.zero_point else 'symmetric'}"

    def holds(self, layer: Layer) -> bool:
        return "qweight" in layer

    def shape(self, layer: Layer) -> tuple[int, int]:
        width, words = layer.matrix("qweight", "I32")
        size = width if self.group_size == -1 else self.group_size
        if width % size:
            raise layer.error("qweight", f"has {width} input features, which groups of {size} do not divide")
        layer.expect("scales", (width // size, words * 8))
        if self.zero_point or "qzeros" in layer:
            layer.expect("qzeros", (width // size, words), dtypes={"I32"})
        return words * 8, width

    def weight(self, layer: Layer) -> torch.Tensor:
        values = _columns(layer.read("qweight")).t().contiguous()
        zero = _columns(layer.read("qzeros")).t() if "qzeros" in layer else torch.full((1, 1), _MIDDLE)
        group = successive(values.shape[1], self.group_size)
        return dequantize(values, layer.read("scales").t(), zero, group)


def _columns(words: torch.Tensor) -> torch.Tensor:
    """int32 [n, out / 8] to uint8 [n, out]."""
    return unpack(words, 4).reshape(*words.shape, 8)[..., _ORDER].flatten(-2)
