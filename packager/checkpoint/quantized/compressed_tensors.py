"""compressed-tensors, as llm-compressor writes it: integers of 4 or 8 bits, or float8_e4m3fn.

pack-quantized has weight_packed int32 [out, in / n], n values a word along the input features, each raised by half its
range to be unsigned; weight_shape [2]; and where asymmetric weight_zero_point int32 [out / n, groups], packed likewise.
The other formats have the weight itself, int8 or float8, and weight_zero_point int8. weight_scale is [1] for a tensor,
[out, 1] for channels, [out, groups] for groups and [out / rows, in / columns] for blocks; weight_g_idx int32 [in] is
the group of each input feature. Source: compressed_tensors/compressors/ of the library.

The library itself would read less than the Hub holds: of late no weight_g_idx, which it wrote until 2026, and no zero
points that are not packed, which it wrote until 2025. It is the tests' reference instead.
"""

from math import ceil
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator

from packager.checkpoint.quantized.format import Format
from packager.checkpoint.quantized.groups import indexed
from packager.checkpoint.quantized.layer import Layer
from packager.checkpoint.quantized.packing import dequantize, unpack
from packager.checkpoint.quantized.scheme import Group, Weights

_READ = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized")


class CompressedTensors(Format):
    """The fields are those of the library's QuantizationConfig."""

    parts: ClassVar[frozenset[str]] = frozenset(
        {"weight", "weight_packed", "weight_shape", "weight_scale", "weight_zero_point", "weight_g_idx"}
    )

    config_groups: dict[str, Group]
    sparsity_config: dict[str, Any] = Field(default_factory=dict)
    transform_config: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _format_is_read(cls, said: dict[str, Any]) -> dict[str, Any]:
        """Checked before the fields, as other formats have others. A group's own format goes before the common one."""
        groups = said.get("config_groups")
        for group in groups.values() if isinstance(groups, dict) else ():
            if isinstance(group, dict) and group.get("weights"):
                named = group.get("format") or said.get("format")
                if named not in _READ:
                    raise ValueError(f"format {named} is not read; read: {', '.join(_READ)}")
        return said

    @model_validator(mode="after")
    def _is_read(self) -> "CompressedTensors":
        if (sparse := self.sparsity_config.get("format", "dense")) != "dense":
            raise ValueError(f"sparse format {sparse} is not read")
        if (self.transform_config or {}).get("config_groups"):
            raise ValueError("transform_config rotates activations as the model runs, which the engine does not")
        return self

    @property
    def stored(self) -> str | None:
        kinds = dict.fromkeys(str(group.weights) for group in self.config_groups.values() if group.weights)
        return f"compressed-tensors, {'; '.join(kinds)}" if kinds else None

    def holds(self, layer: Layer) -> bool:
        return "weight_packed" in layer or ("weight" in layer and layer.dtype("weight") in ("I8", "F8_E4M3"))

    def shape(self, layer: Layer) -> tuple[int, int]:
        weights = self._weights(layer)
        rows, width = _checked(layer, weights)
        height, size = weights.block(rows, width)
        scales = ceil(rows / height), ceil(width / size)
        layer.expect("weight_scale", *_spellings(*scales))
        if "weight_g_idx" in layer:
            layer.expect("weight_g_idx", (width,), dtypes={"I32"})
        if not weights.symmetric:
            if "weight_zero_point" in layer and layer.dtype("weight_zero_point") == "I32":
                layer.expect("weight_zero_point", (ceil(rows * weights.num_bits / 32), scales[1]), dtypes={"I32"})
            else:
                layer.expect("weight_zero_point", *_spellings(*scales), dtypes={"I8"})
        return rows, width

    def weight(self, layer: Layer) -> torch.Tensor:
        weights = self._weights(layer)
        rows, width = _checked(layer, weights)
        height, size = weights.block(rows, width)
        if "weight_packed" in layer:
            values = _signed(layer.read("weight_packed"), weights.num_bits)[:, :width]
        else:
            values = layer.read("weight")
        scale = layer.read("weight_scale").reshape(ceil(rows / height), -1)
        zero = None if weights.symmetric else _zero_points(layer, weights.num_bits, scale.shape)
        group = indexed(layer, "weight_g_idx", width, size, scale.shape[1])
        return dequantize(values, scale, zero, group, height)

    def _weights(self, layer: Layer) -> Weights:
        """The group that names the layer, else the one for layers of its class, as the library matches them."""
        kind = "Embedding" if layer.name.endswith("embed_tokens") else "Linear"
        groups = self.config_groups.values()
        named = [group for group in groups if group.names(layer.name)]
        for group in (*named, *(group for group in groups if kind in group.targets)):
            if group.weights:
                return group.weights
        raise layer.error(next(iter(layer.parts)), "is quantised, but no entry of config_groups is for it")


def _checked(layer: Layer, weights: Weights) -> tuple[int, int]:
    """[out_features, in_features]; raises TrtpackError where the weight is not stored as its scheme says."""
    if "weight_packed" not in layer:
        return layer.matrix("weight", "I8" if weights.type == "int" else "F8_E4M3")
    layer.expect("weight_shape", (2,), dtypes={"I32", "I64"})
    rows, width = layer.read("weight_shape").tolist()
    layer.expect("weight_packed", (rows, ceil(width * weights.num_bits / 32)), dtypes={"I32"})
    return rows, width


def _spellings(rows: int, columns: int) -> list[tuple[int, ...]]:
    """The shapes in which so many scales are stored: one a row may lack its second dimension, a single one both."""
    return [(rows, columns), *([(rows,)] if columns == 1 else []), *([()] if rows == columns == 1 else [])]


def _zero_points(layer: Layer, bits: int, shape: torch.Size) -> torch.Tensor:
    """Signed, [rows, columns] as the scales."""
    stored = layer.read("weight_zero_point")
    return _signed(stored.t(), bits).t()[: shape[0]] if stored.dtype == torch.int32 else stored.reshape(shape)


def _signed(words: torch.Tensor, bits: int) -> torch.Tensor:
    return unpack(words, bits).to(torch.int16) - (1 << (bits - 1))
