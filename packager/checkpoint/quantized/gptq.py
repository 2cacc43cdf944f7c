"""GPTQ, as AutoGPTQ and GPTQModel store it.

qweight int32 [in / n, out], n values a word along the input features; qzeros int32 [groups, out / n]; scales
[groups, out]; g_idx int32 [in], the group of each input feature, which act-order (`desc_act`) shuffles. Sources:
`QuantLinear.pack` in AutoGPTQ's auto_gptq/nn_modules/qlinear/qlinear_cuda.py, and for the two versions of qzeros
`convert_gptq_v1_to_v2_format_module` in GPTQModel's gptqmodel/utils/model.py.
"""

from math import ceil
from typing import Any, ClassVar, Literal

import torch
from pydantic import AliasChoices, Field, model_validator

from packager.checkpoint.quantized.format import Format
from packager.checkpoint.quantized.groups import grouped, indexed
from packager.checkpoint.quantized.layer import Layer
from packager.checkpoint.quantized.packing import dequantize, unpack


class Gptq(Format):
    """The fields are those of transformers' GPTQConfig."""

    parts: ClassVar[frozenset[str]] = frozenset({"qweight", "qzeros", "scales", "g_idx"})

    bits: Literal[4, 8]
    group_size: int = Field(default=128, ge=-1)
    sym: bool = True
    desc_act: bool = False
    checkpoint_format: Literal["gptq", "gptq_v2"] = Field(
        default="gptq", validation_alias=AliasChoices("checkpoint_format", "format")
    )
    is_marlin_format: Literal[False] = False
    dynamic: dict[str, dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _one_scheme_for_all(self) -> "Gptq":
        """GPTQModel's `dynamic` maps a pattern of layers to what is different there; "-:" leaves them unquantised."""
        for pattern, changes in (self.dynamic or {}).items():
            if not pattern.startswith("-:") and changes.keys() & {"bits", "group_size", "sym", "desc_act"}:
                raise ValueError(f"dynamic: {pattern} is quantised differently, which is not read")
        return self

    @property
    def stored(self) -> str:
        symmetry = "symmetric" if self.sym else "asymmetric"
        order = ", act-order" if self.desc_act else ""
        return f"gptq, {self.bits} bits, {grouped(self.group_size)}, {symmetry}{order}"

    def holds(self, layer: Layer) -> bool:
        return "qweight" in layer

    def shape(self, layer: Layer) -> tuple[int, int]:
        words, rows = layer.matrix("qweight", "I32")
        width = words * 32 // self.bits
        count = 1 if self.group_size == -1 else ceil(width / self.group_size)
        layer.expect("scales", (count, rows))
        layer.expect("qzeros", (count, rows * self.bits // 32), dtypes={"I32"})
        if self.desc_act or "g_idx" in layer:
            layer.expect("g_idx", (width,), dtypes={"I32"})
        return rows, width

    def weight(self, layer: Layer) -> torch.Tensor:
        values = unpack(layer.read("qweight").t(), self.bits)
        scale = layer.read("scales").t()
        group = indexed(layer, "g_idx", values.shape[1], self.group_size, scale.shape[1])
        return dequantize(values, scale, self._zeros(layer).t(), group)

    def _zeros(self, layer: Layer) -> torch.Tensor:
        """uint8 [groups, out]. Version 1 stores each zero point less one: a subtraction over whole words, borrows and
        all, that adding over whole words undoes. Some version 2 files call themselves version 1, and give themselves
        away where they are symmetric: every zero point is then the middle (vllm-project/vllm pull request 38966).
        """
        words = layer.read("qzeros")
        middle = 1 << (self.bits - 1)
        disguised = self.sym and bool((unpack(words, self.bits) == middle).all())
        if self.checkpoint_format == "gptq" and not disguised:
            words = words + (0x11111111 if self.bits == 4 else 0x01010101)
        return unpack(words, self.bits)
