"""Random numbers that are a pure function of a request's seed, a token's position and the token."""

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def exponentials(places: Sequence[tuple[int, int]], vocabulary: int, device: torch.device) -> Tensor:
    """Float32 [places, vocabulary], exponentially distributed with mean 1, for places of (seed, position).

    A row is a stream of SplitMix64 (Steele, Lea, Flood 2014) that starts where its place says; a token has the same
    number in a vocabulary of any size.
    """
    starts = torch.tensor([_signed(_start(*place)) for place in places], dtype=torch.int64, device=device)
    state = torch.arange(vocabulary, device=device) * _signed(_GAMMA) + starts.unsqueeze(1)
    for shift, factor in _ROUNDS:
        state.bitwise_xor_(_shifted(state, shift)).mul_(_signed(factor))
    # Small numbers decide the race, and near 0 a float32 has all 32 bits; next to 1 it would round to an infinity.
    uniform = _shifted(state, 32).float().add_(0.5).mul_(2.0**-32).clamp_max_(1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_()


def _start(seed: int, position: int) -> int:
    return _mix(_mix(seed * _GAMMA + 1) + position * _GAMMA)


def _mix(state: int) -> int:
    for shift, factor in _ROUNDS:
        state &= _MASK
        state = (state ^ (state >> shift)) * factor
    state &= _MASK
    return state ^ (state >> 31)


def _shifted(state: Tensor, count: int) -> Tensor:
    """To the right, with zeros from the left: PyTorch's own shift keeps the sign."""
    return (state >> count).bitwise_and_((1 << 64 - count) - 1)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value
