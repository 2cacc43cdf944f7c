"""No value moves further than its scheme allows, and what is stored is what was rounded."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from packager.quantize.inputs import Inputs
from packager.quantize.rounding import Rounding
from runtime.engine.manifest import Quantization, Scheme
from runtime.model.quantization import dequantize

SCHEMES: tuple[Scheme, ...] = ("int8", "int4", "fp8", "smoothquant")
FINITE = st.floats(-1e3, 1e3, width=32)
WEIGHTS = arrays(np.float32, (3, 64), elements=FINITE).map(torch.from_numpy)


def rounding(scheme: Scheme, dtype: torch.dtype = torch.float32, group_size: int = 32) -> Rounding:
    return Rounding(Quantization(scheme=scheme, group_size=group_size if scheme == "int4" else None), dtype)


@given(WEIGHTS, st.sampled_from(["int8", "int4"]))
def test_integers_are_off_by_half_a_step_at_most(weight: Tensor, scheme: Scheme) -> None:
    rounded = rounding(scheme).nearest(weight)
    error = (rounded.weight - weight).abs().view(rounded.values.shape)
    assert (error <= rounded.scale * 0.5001).all()


@given(WEIGHTS, st.sampled_from(["int8", "int4"]))
def test_a_scale_in_bfloat16_costs_a_quarter_step_at_the_end_of_the_range(weight: Tensor, scheme: Scheme) -> None:
    """It may be rounded down by 2^-9 of itself, so that the largest value of int8, 127 steps, is clipped by 0.25."""
    rounded = rounding(scheme, torch.bfloat16).nearest(weight)
    error = (rounded.weight - weight).abs().view(rounded.values.shape)
    assert (error <= rounded.scale * 0.7501).all()


@given(WEIGHTS)
def test_fp8_is_off_by_a_sixteenth_at_most(weight: Tensor) -> None:
    """Three bits of mantissa, and below 2^-6 steps of 2^-9 of the scale."""
    rounded = rounding("fp8").nearest(weight)
    allowed = torch.maximum(weight.abs() * 2**-4, rounded.scale.view(-1, 1) * 2**-10)
    assert ((rounded.weight - weight).abs() <= allowed * 1.0001).all()


@given(WEIGHTS, st.sampled_from(SCHEMES), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=50)
def test_what_is_stored_is_what_was_rounded(weight: Tensor, scheme: Scheme, dtype: torch.dtype) -> None:
    chosen = rounding(scheme, dtype)
    rounded = chosen.clipped(weight, None)
    stored, scale = chosen.stored(rounded)
    assert scale.dtype == dtype
    assert torch.equal(dequantize(stored, scale.float()), rounded.weight)


@given(WEIGHTS, arrays(np.float32, 64, elements=st.floats(0, 1e3, width=32)).map(torch.from_numpy))
def test_clipping_never_adds_error(weight: Tensor, power: Tensor) -> None:
    chosen = rounding("int4")
    inputs = Inputs(torch.zeros(1, 64), power, power, power)
    errors = [
        ((rounded.weight - weight).square() * power).sum()
        for rounded in (chosen.clipped(weight, inputs), chosen.nearest(weight))
    ]
    assert errors[0] <= errors[1] * 1.0001 + 1e-9 * (weight.square() * power).sum()  # float32 rounds sums


def test_clipping_gives_up_an_outlier_that_hardly_matters() -> None:
    weight = torch.full((1, 32), 0.5)
    weight[0, 0] = 1.0
    power = torch.ones(32)
    power[0] = 1e-3
    clipped = rounding("int4").clipped(weight, Inputs(torch.zeros(1, 32), power, power, power))
    nearest = rounding("int4").nearest(weight)
    assert clipped.weight[0, 0] < 0.9
    assert (clipped.weight - weight)[0, 1:].abs().max() < (nearest.weight - weight)[0, 1:].abs().max()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_zeros_stay_zeros(scheme: Scheme, dtype: torch.dtype) -> None:
    chosen = rounding(scheme, dtype)
    stored, scale = chosen.stored(chosen.clipped(torch.zeros(2, 64), None))
    assert (scale > 0).all()  # a builder refuses a scale of zero
    assert torch.equal(dequantize(stored, scale), torch.zeros(2, 64, dtype=dtype))


def test_stored_shapes_and_types() -> None:
    weight = torch.randn(6, 96)
    expected = {
        "int8": (torch.int8, [6, 96], [6]),
        "smoothquant": (torch.int8, [6, 96], [6]),
        "fp8": (torch.float8_e4m3fn, [6, 96], [6]),
        "int4": (torch.uint8, [6, 48], [6, 3]),
    }
    for scheme in SCHEMES:
        chosen = rounding(scheme, torch.bfloat16, group_size=128)  # 96 inputs: groups of 32
        stored, scale = chosen.stored(chosen.nearest(weight))
        assert (stored.dtype, list(stored.shape), list(scale.shape)) == expected[scheme]


def test_fp8_inputs_reach_the_end_of_the_range() -> None:
    inputs = Inputs.of(torch.tensor([[1.0, -8.96], [2.0, 3.0]]))
    scale = rounding("fp8").input_scale(torch.ones(1, 2), inputs)
    assert scale is not None and scale.item() == pytest.approx(0.02)


def test_int8_inputs_clip_an_outlier_that_no_weight_listens_to() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    x[5, 3] = 100.0
    deaf, keen = torch.ones(4, 8), torch.ones(4, 8)
    deaf[:, 3] = 0.0
    keen[:, 3] = 10.0
    clipped, kept = (rounding("smoothquant").input_scale(weight, Inputs.of(x)) for weight in (deaf, keen))
    assert clipped is not None and kept is not None
    assert kept.item() == pytest.approx(100 / 127)
    assert clipped < kept / 3


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_weights_alone_need_no_input_scale(scheme: Scheme) -> None:
    assert rounding(scheme).input_scale(torch.ones(1, 2), Inputs.of(torch.ones(3, 2))) is None
