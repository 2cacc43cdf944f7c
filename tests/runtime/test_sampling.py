import math

import pytest
import torch

from runtime.sampling import Draw, SamplingParams, sample


def frequencies(logits: torch.Tensor, params: SamplingParams, draws: int = 20000) -> list[float]:
    tokens = sample(logits.expand(draws, -1), [Draw(params, position) for position in range(draws)])
    return [tokens.count(token) / draws for token in range(logits.shape[-1])]


def reference(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> list[float]:
    """The textbook way, one row, plain Python."""
    scaled = [value / temperature for value in logits.tolist()]
    order = sorted(range(len(scaled)), key=lambda token: -scaled[token])[: top_k or None]
    weights = {token: math.exp(scaled[token] - scaled[order[0]]) for token in order}
    total, kept, mass = sum(weights.values()), list[int](), 0.0
    for token in order:
        if kept and mass >= top_p:
            break
        kept.append(token)
        mass += weights[token] / total
    kept_total = sum(weights[token] for token in kept)
    return [weights[t] / kept_total if t in kept else 0.0 for t in range(len(scaled))]


LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.5, 0.0, 1.0, -3.0, 0.7])


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.6), (4, 0.8), (100, 1.0), (0, 1e-6)])
def test_distribution_by_chi_square(temperature: float, top_k: int, top_p: float) -> None:
    expected = reference(LOGITS, temperature, top_k, top_p)
    got = frequencies(LOGITS, SamplingParams(temperature, top_k, top_p, seed=3))
    assert all(g == 0 for g, e in zip(got, expected, strict=True) if e == 0)
    chi_square = sum(20000 * (g - e) ** 2 / e for g, e in zip(got, expected, strict=True) if e)
    assert chi_square < 30  # 7 degrees of freedom: p < 1e-4


def test_zero_temperature_and_top_k_1_are_greedy() -> None:
    draws = [Draw(SamplingParams(0.0, seed=1), 5), Draw(SamplingParams(1.0, top_k=1, seed=2), 5)]
    assert sample(LOGITS.expand(2, -1), draws) == [1, 1]


def test_a_tiny_temperature_is_greedy_and_not_nan() -> None:
    assert sample(LOGITS[None] * 1e4, [Draw(SamplingParams(1e-30, seed=1), 0)]) == [1]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 50, generator=generator)
    draws = [Draw(SamplingParams(0.0 if row % 3 == 0 else 1.0, seed=row), row) for row in range(6)]
    together = sample(logits, draws)
    assert together == [sample(logits[row : row + 1], [draws[row]])[0] for row in range(6)]


def test_seeds_and_positions_differ() -> None:
    flat = torch.zeros(200, 1000)
    by_seed = sample(flat, [Draw(SamplingParams(1.0, seed=seed), 0) for seed in range(200)])
    by_position = sample(flat, [Draw(SamplingParams(1.0, seed=0), position) for position in range(200)])
    assert len(set(by_seed)) > 150
    assert len(set(by_position)) > 150
    assert by_seed != by_position


def test_masked_tokens_are_never_drawn() -> None:
    logits = torch.full((500, 20), -torch.inf)
    logits[:, 4] = 0.0
    assert set(sample(logits, [Draw(SamplingParams(1.0, seed=s), s) for s in range(500)])) == {4}
