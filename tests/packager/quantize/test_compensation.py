"""Later columns make up for earlier ones where inputs move together, and are let alone where they do not."""

import pytest
import torch
from torch import Tensor

from packager.quantize.compensation import compensated
from packager.quantize.inputs import Inputs
from packager.quantize.rounding import Rounding
from runtime.engine.manifest import Quantization, Scheme

SCHEMES: tuple[Scheme, ...] = ("int8", "int4", "fp8", "smoothquant")


def related(tokens: int) -> Tensor:
    """Inputs [tokens, 96] that mostly lie in 12 dimensions, in channels of different loudness."""
    torch.manual_seed(0)
    return (torch.randn(tokens, 12) @ torch.randn(12, 96) + 0.1 * torch.randn(tokens, 96)) * torch.logspace(-1, 1, 96)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_outputs_lose_less_on_text_not_seen(scheme: Scheme) -> None:
    x = related(2000)
    seen, unseen = x[:1000], x[1000:]
    weight = torch.randn(40, 96)
    rounding = Rounding(Quantization(scheme=scheme, group_size=32 if scheme == "int4" else None), torch.bfloat16)
    inputs = Inputs.of(seen, with_gram=True)
    errors = [
        ((rounded.weight - weight) @ unseen.T).square().mean()
        for rounded in (rounding.compensated(weight, inputs), rounding.clipped(weight, inputs))
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_values_are_ones_the_scheme_can_store(scheme: Scheme) -> None:
    rounding = Rounding(Quantization(scheme=scheme, group_size=32 if scheme == "int4" else None), torch.bfloat16)
    rounded = rounding.compensated(torch.randn(40, 96), Inputs.of(related(200), with_gram=True))
    low, high = {"int4": (-8, 7), "fp8": (-448, 448)}.get(scheme, (-127, 127))
    assert low <= rounded.values.min() and rounded.values.max() <= high
    stored = rounded.values.to(torch.float8_e4m3fn) if scheme == "fp8" else rounded.values.round()
    assert torch.equal(stored.float(), rounded.values)


def test_unrelated_inputs_have_nothing_to_make_up_with() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 70)
    found = compensated(weight, torch.rand(70).diag(), 100, 0.0, lambda column, index: column.round())
    assert torch.equal(found, weight.round())


def test_a_channel_that_never_spoke_keeps_its_weights() -> None:
    torch.manual_seed(0)
    x, weight = related(300), torch.randn(5, 96)
    x[:, 17] = 0.0
    found = compensated(weight, x.T @ x / 300, 300, 0.0, lambda column, index: (column * 64).round() / 64)
    assert (found - weight)[:, 17].abs().max() <= 1 / 128


def test_the_rounding_knows_which_column_it_rounds() -> None:
    torch.manual_seed(0)
    asked: list[int] = []
    weight, power = torch.randn(3, 4), torch.tensor([1.0, 4.0, 2.0, 3.0])

    def nearest(column: Tensor, index: int) -> Tensor:
        asked.append(index)
        return column

    assert torch.allclose(compensated(weight, power.diag(), 10, 0.0, nearest), weight)
    assert asked == [1, 3, 2, 0]
