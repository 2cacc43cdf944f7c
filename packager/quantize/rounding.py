"""Float weights and activations to the nearest that their stored type can hold."""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from packager.quantize.compensation import compensated
from packager.quantize.groups import group_size
from packager.quantize.inputs import Inputs
from runtime.engine.manifest import Quantization, Scheme
from runtime.model.quantization import fake_quantize, pack_int4

# Stored type, smallest and largest value; int4 is packed afterwards.
_STORED: dict[Scheme, tuple[torch.dtype, float, float]] = {
    "int8": (torch.int8, -127, 127),
    "smoothquant": (torch.int8, -127, 127),
    "int4": (torch.int8, -8, 7),
    "fp8": (torch.float8_e4m3fn, -448, 448),
}
# Shares of the largest magnitude at which a range may end, of int4 weights and of int8 activations: what lies beyond is
# clipped, the rest gets finer steps. On SmolLM2 a grid of half the weights' step changed its KL by less than 1 %.
_WEIGHT_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6)
_INPUT_CLIPS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25)
# Zero cannot be divided by, and subnormal scales are coarse; down to here those of float16 keep the 9 bits of bfloat16.
_SMALLEST_SCALE = 2**-16
# Mean square of a rounding to three bits of mantissa, as a share of the value's: a step of 2^-3 in [1, 2) has an error
# of (2^-3)^2 / 12, and the mean of 1/m^2 over mantissas of even logarithm is 3/8 / ln 2.
_FP8_NOISE = 2**-6 / 12 * 0.375 / log(2)


@dataclass(frozen=True)
class Rounded:
    """Integral (or float8) `values` float32 [out, groups, in / groups] times `scale` float32 [out, groups, 1]."""

    values: Tensor
    scale: Tensor

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, float32 [out, in]."""
        return (self.values * self.scale).flatten(1)


class Rounding:
    """A scheme's rounding; scales are first rounded to `dtype`, which they are stored in."""

    def __init__(self, quantization: Quantization, dtype: torch.dtype) -> None:
        self.scheme, self._dtype = quantization.scheme, dtype
        self.quantizes_inputs, self._group_size = quantization.quantizes_inputs, quantization.group_size
        self._stored, self._low, self._high = _STORED[quantization.scheme]

    def group_size(self, layer: str, width: int) -> int:
        """Input features that share a scale in a layer of that width. Raises TrtpackError where no group fits."""
        return group_size(layer, width, self._group_size)

    def nearest(self, weight: Tensor) -> Rounded:
        """Rounds a weight float32 [out, in] to nearest; the largest of each group, or row, ends the range."""
        groups, largest = self._groups(weight)
        return self._to_scale(groups, self._scale(largest / self._high))

    def clipped(self, weight: Tensor, inputs: Inputs | None) -> Rounded:
        """As `nearest`, but int4 ends the range of each group where its squared error is least.

        A column's error is weighted by the power of its input if that is known: the expected squared error of the
        output, were the inputs uncorrelated.
        """
        if self.scheme != "int4":
            return self.nearest(weight)
        groups, largest = self._groups(weight)
        power = inputs.power.view(groups.shape[1:]) if inputs else torch.ones(groups.shape[1:])
        scales = [self._scale(largest * (clip / self._high)) for clip in _WEIGHT_CLIPS]
        errors = [_error(self._to_scale(groups, scale), groups, power) for scale in scales]
        best = torch.stack(errors).argmin(0, keepdim=True)
        return self._to_scale(groups, torch.stack(scales).gather(0, best).squeeze(0))

    def compensated(self, weight: Tensor, inputs: Inputs) -> Rounded:
        """Rounds to the range of `clipped`, one column after the other; `inputs` must have a gram."""
        if inputs.gram is None:
            raise ValueError("compensation needs the inputs' gram")
        scale = self.clipped(weight, inputs).scale
        size = weight.shape[1] // scale.shape[1]

        def nearest(column: Tensor, index: int) -> Tensor:
            step = scale[:, index // size, 0]
            return self._nearest(column / step).mul_(step)

        noise = _FP8_NOISE if self.scheme == "fp8" else 0.0
        rounded = compensated(weight, inputs.gram, inputs.tokens, noise, nearest)
        return self._to_scale(rounded.view(len(weight), -1, size), scale)

    def stored(self, rounded: Rounded) -> tuple[Tensor, Tensor]:
        """Weight and scale as `runtime.model.quantization` reads them."""
        values = rounded.values.flatten(1).to(self._stored)
        scale = rounded.scale.squeeze(-1).to(self._dtype)
        return (
            pack_int4(values) if self.scheme == "int4" else values,
            scale if self._group_size else scale.squeeze(-1),
        )

    def input_scale(self, weight: Tensor, inputs: Inputs) -> Tensor | None:
        """The static scale [] of activations in float32, or None where they stay in the engine's dtype.

        fp8's relative precision does not hang on it, so there it is the largest magnitude seen; int8's is the one with
        the least squared error, each channel's weighted by what its weights make of it.
        """
        if not self.quantizes_inputs:
            return None
        largest = inputs.largest.max()
        if self.scheme == "fp8":
            return self._scale(largest / 448)
        power = weight.square().sum(0)
        scales = [self._scale(largest * clip / 127) for clip in _INPUT_CLIPS]
        errors = [(self.fake_input(inputs.sample, scale) - inputs.sample).square().mean(0) @ power for scale in scales]
        return scales[int(torch.stack(errors).argmin())]

    def fake_input(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """Activations as the quantised layer sees them."""
        return x if scale is None else fake_quantize(x, scale, self._stored)

    def _groups(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """[out, groups, in / groups], and each group's largest magnitude [out, groups, 1]."""
        rows, width = weight.shape
        groups = weight.view(rows, -1, self.group_size("the layer", width))
        return groups, groups.abs().amax(-1, keepdim=True)

    def _to_scale(self, groups: Tensor, scale: Tensor) -> Rounded:
        return Rounded(self._nearest(groups / scale), scale)

    def _nearest(self, values: Tensor) -> Tensor:
        values.clamp_(self._low, self._high)
        return values.to(self._stored).float() if self.scheme == "fp8" else values.round_()

    def _scale(self, exact: Tensor) -> Tensor:
        return exact.to(self._dtype).float().clamp_min(min(torch.finfo(self._dtype).tiny, _SMALLEST_SCALE))


def _error(rounded: Rounded, groups: Tensor, power: Tensor) -> Tensor:
    """Squared error of each group, [out, groups, 1]."""
    return (rounded.values * rounded.scale).sub_(groups).square_().mul_(power).sum(-1, keepdim=True)
