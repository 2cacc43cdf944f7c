"""Scales of input channels with which a linear layer loses least when it is quantised."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from packager.quantize.inputs import Inputs
from packager.quantize.rounding import Rounding
from runtime.engine.manifest import Method

# On SmolLM2 a grid of eleven found nothing better than these.
_AWQ_ALPHAS = (0.2, 0.3, 0.4, 0.5)
_SMOOTHQUANT_ALPHAS = (0.4, 0.5, 0.6, 0.7, 0.8)
# A channel that the text hardly moved must not vanish, nor blow up its norm's weight.
_WIDEST = 1e4


def best_scale(
    weight: Tensor, inputs: Inputs, rounding: Rounding, method: Method, tied: Callable[[Tensor], Tensor]
) -> Tensor:
    """Of a few candidates [in], and ones, the scale with the least squared error of the layer's outputs."""
    exact = inputs.sample @ weight.T
    candidates = [torch.ones(weight.shape[1]), *map(tied, _candidates(weight, inputs, method))]
    errors = [_error(weight * scale, inputs.divided(scale), rounding, exact) for scale in candidates]
    return candidates[errors.index(min(errors))]


def _candidates(weight: Tensor, inputs: Inputs, method: Method) -> Iterator[Tensor]:
    if method == "awq":
        for alpha in _AWQ_ALPHAS:
            yield _centred(_positive(inputs.magnitude) ** alpha)
    elif method == "smoothquant":
        largest, weights = _positive(inputs.largest), _positive(weight.abs().amax(0))
        for alpha in _SMOOTHQUANT_ALPHAS:
            yield _centred(largest**alpha / weights ** (1 - alpha))


def _error(weight: Tensor, inputs: Inputs, rounding: Rounding, exact: Tensor) -> float:
    x = rounding.fake_input(inputs.sample, rounding.input_scale(weight, inputs))
    return float((x @ rounding.nearest(weight).weight.T - exact).square().mean())


def _positive(figures: Tensor) -> Tensor:
    return figures.clamp_min(max(float(figures.max()), 1e-20) / _WIDEST)


def _centred(scale: Tensor) -> Tensor:
    return scale / (scale.max() * scale.min()).sqrt()
