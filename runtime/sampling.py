"""Choosing the next token from logits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class SamplingParams:
    """`temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off.

    The same `seed` gives the same tokens whatever else is in the batch: each draw depends on the seed and
    the token's position alone.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Draw:
    """One token to choose: by which parameters, at which position of its sequence."""

    params: SamplingParams
    position: int


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """One token id for each row of logits, float32 [rows, vocabulary]."""
    tokens = logits.argmax(dim=-1)
    rows = [row for row, draw in enumerate(draws) if draw.params.temperature > 0]
    if rows:
        index = torch.tensor(rows, device=logits.device)
        tokens[index] = _draw(logits[index], [draws[row] for row in rows])
    return [int(token) for token in tokens.tolist()]


def _draw(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Temperature, then top_k, then top_p (Holtzman et al. 2020), then one inverse-CDF draw a row."""

    def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=logits.device).unsqueeze(1)

    vocabulary = logits.shape[-1]
    # Subtracting the maximum first keeps a tiny temperature from overflowing.
    shifted = (logits - logits.amax(-1, keepdim=True)) / column([draw.params.temperature for draw in draws])
    ordered, ids = shifted.sort(dim=-1, descending=True)
    ranks = torch.arange(vocabulary, device=logits.device)
    top_k = column([draw.params.top_k or vocabulary for draw in draws])
    probabilities = ordered.masked_fill(ranks >= top_k, -torch.inf).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    # Rank 0 always stays, also where rounding puts its cumulative probability at top_p.
    top_p = column([draw.params.top_p if draw.params.top_p < 1 else math.inf for draw in draws])
    outside = (before >= top_p) & (ranks > 0)
    cumulative = probabilities.masked_fill(outside, 0.0).cumsum(-1, dtype=torch.float64)
    uniform = column([_uniform(draw.params.seed, draw.position) for draw in draws], torch.float64)
    chosen = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    last = (~outside).sum(-1, keepdim=True) - 1
    return ids.gather(-1, torch.minimum(chosen, last)).squeeze(1)


def _uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from (seed, position): two rounds of SplitMix64 (Steele, Lea, Flood 2014)."""
    state = _mix((seed * 0x9E3779B97F4A7C15 + 1) & _MASK)
    return (_mix((state + position * 0x9E3779B97F4A7C15) & _MASK) >> 11) * 2.0**-53


def _mix(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
