"""float8_e4m3fn weights with scales beside them, as `quant_method: fp8` stores them.

DeepSeek and Qwen give each block of `weight_block_size` a scale, weight_scale_inv [ceil(out / rows), ceil(in /
columns)]; AutoFP8 and Mistral one to the whole tensor (weight_scale, or weight_scale_inv again). Either multiplies, in
spite of the second name. Sources: `Fp8Dequantize` in transformers' integrations/finegrained_fp8.py, and "Checkpoint
structure explanation" in AutoFP8's README.
"""

from math import ceil
from typing import ClassVar

import torch
from pydantic import PositiveInt

from packager.checkpoint.quantized.format import Format
from packager.checkpoint.quantized.groups import successive
from packager.checkpoint.quantized.layer import Layer
from packager.checkpoint.quantized.packing import dequantize

_E4M3 = "F8_E4M3"


class Fp8(Format):
    """The fields are those of transformers' FineGrainedFP8Config."""

    parts: ClassVar[frozenset[str]] = frozenset({"weight", "weight_scale_inv", "weight_scale"})

    weight_block_size: tuple[PositiveInt, PositiveInt] | None = None

    @property
    def stored(self) -> str:
        if self.weight_block_size is None:
            return "fp8, one scale a tensor"
        return f"fp8, blocks of {self.weight_block_size[0]} x {self.weight_block_size[1]}"

    def holds(self, layer: Layer) -> bool:
        return "weight" in layer and layer.dtype("weight") == _E4M3

    def shape(self, layer: Layer) -> tuple[int, int]:
        rows, width = layer.matrix("weight", _E4M3)
        if self.weight_block_size is None:
            layer.expect(_scale(layer), (), (1,))
        else:
            height, size = self.weight_block_size
            layer.expect(_scale(layer), (ceil(rows / height), ceil(width / size)))
        return rows, width

    def weight(self, layer: Layer) -> torch.Tensor:
        values = layer.read("weight")
        rows, width = values.shape
        height, size = self.weight_block_size or (rows, width)
        scale = layer.read(_scale(layer)).reshape(ceil(rows / height), -1)
        return dequantize(values, scale, None, successive(width, size), height)


def _scale(layer: Layer) -> str:
    return "weight_scale" if "weight_scale" in layer else "weight_scale_inv"
