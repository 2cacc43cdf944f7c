"""The scale that is found helps where one can, and is none where none does."""

import pytest
import torch
from torch import Tensor

from packager.quantize.inputs import Inputs
from packager.quantize.rounding import Rounding
from packager.quantize.search import Method, best_scale
from runtime.engine.manifest import Quantization, Scheme


def error(weight: Tensor, x: Tensor, scale: Tensor, rounding: Rounding) -> float:
    scaled, inputs = weight * scale, Inputs.of(x / scale)
    seen = rounding.fake_input(x / scale, rounding.input_scale(scaled, inputs))
    exact = x @ weight.T
    return float((seen @ rounding.nearest(scaled).weight.T - exact).norm() / exact.norm())


@pytest.mark.parametrize(("scheme", "method"), [("int4", "awq"), ("int8", "awq"), ("smoothquant", "smoothquant")])
def test_loud_channels_are_spared(scheme: Scheme, method: Method) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(48, 64), torch.randn(300, 64)
    x[:, 7] *= 30
    x[:, 40] *= 50
    rounding = Rounding(Quantization(scheme=scheme, group_size=32 if scheme == "int4" else None), torch.bfloat16)
    scale = best_scale(weight, Inputs.of(x), rounding, method, lambda scale: scale)
    assert scale[7] > 2 * scale[0] and scale[40] > scale[7] * 0.99
    assert error(weight, x, scale, rounding) < 0.75 * error(weight, x, torch.ones(64), rounding)


def test_a_scale_that_does_not_help_is_not_taken() -> None:
    """Weights that int8 holds exactly."""
    torch.manual_seed(0)
    weight, x = torch.randint(-127, 128, (48, 64)).float(), torch.randn(300, 64)
    weight[:, 0] = 127.0
    x[:, 7] *= 30
    rounding = Rounding(Quantization(scheme="int8"), torch.bfloat16)
    assert torch.equal(best_scale(weight, Inputs.of(x), rounding, "awq", lambda scale: scale), torch.ones(64))


def test_only_a_scale_that_can_be_folded_is_tried() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(48, 64), torch.randn(300, 64) * torch.logspace(-1, 1, 64)
    rounding = Rounding(Quantization(scheme="int4", group_size=32), torch.bfloat16)
    found = best_scale(weight, Inputs.of(x), rounding, "awq", lambda scale: scale.view(2, 32).mean(0).repeat(2))
    assert torch.equal(found[:32], found[32:])
