"""The next token of every row of logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from runtime.errors import EngineError
from runtime.sampling import logprobs
from runtime.sampling.adjustments import adjusted
from runtime.sampling.draw import Draw
from runtime.sampling.filters import filtered
from runtime.sampling.logprobs import TokenLogprobs
from runtime.sampling.noise import exponentials

# Tokens whose times are drawn at once, each of 8 bytes: on a CPU what its level 2 cache holds, on a GPU 256 MiB.
_RACERS = {"cpu": 2**18, "cuda": 2**25}


@dataclass(frozen=True)
class Choice:
    """A token, with its log-probabilities where they were asked for; or why there is none."""

    token: int
    logprobs: TokenLogprobs | None = None
    error: Exception | None = None


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """A choice for each row of logits, float32 [rows, vocabulary]; what goes wrong with a row is that row's alone."""
    changed, errors = _adjust(logits, draws)
    best, likeliest = changed.max(-1)
    tokens: list[int] = likeliest.tolist()
    for row, value in enumerate(best.tolist()):
        if not -inf < value < inf:
            errors.setdefault(row, _complaint(value))
    random = [row for row, draw in enumerate(draws) if not draw.params.greedy and row not in errors]
    if random:
        drawn = _draw(_rows(changed, random), [draws[row] for row in random])
        for row, token in zip(random, drawn, strict=True):
            tokens[row] = token
    wanted = [row for row, draw in enumerate(draws) if draw.params.logprobs is not None and row not in errors]
    told: dict[int, TokenLogprobs] = {}
    if wanted:
        counts = [draws[row].params.logprobs or 0 for row in wanted]
        found = logprobs.of(_rows(logits, wanted), [tokens[row] for row in wanted], counts)
        told = dict(zip(wanted, found, strict=True))
    return [Choice(token, told.get(row), errors.get(row)) for row, token in enumerate(tokens)]


def _adjust(logits: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, dict[int, Exception]]:
    errors: dict[int, Exception] = {}
    rows = [row for row, draw in enumerate(draws) if draw.adjusts]
    changed = logits.clone() if rows else logits
    for row in rows:
        try:
            changed[row] = adjusted(changed[row], draws[row])
        except Exception as error:  # a processor is the user's code, and may raise anything
            errors[row] = EngineError(f"the logits of this request could not be processed: {error}")
    return changed, errors


def _complaint(value: float) -> EngineError:
    if value == -inf:
        return EngineError("no token is allowed here: the request's own constraints exclude the whole vocabulary")
    return EngineError(f"the model's logits for this request hold {value}, so no token can be chosen")


def _draw(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """As many rows at once as `_RACERS` allows."""
    rows = max(1, _RACERS[logits.device.type] // logits.shape[-1])
    starts = range(0, len(draws), rows)
    return [token for at in starts for token in _race(logits[at : at + rows], draws[at : at + rows])]


def _race(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Temperature, then the filters, then a race: each token takes a random time over its weight, the first is drawn.

    With exponential times that is a draw from the weights (the "Gumbel-max trick"). As a token keeps its time whatever
    its weight, similar logits draw the same token, which a draft model lives on: two distributions at a distance of TV
    agree in at least (1 - TV) / (1 + TV) of the draws (Daliri et al., arXiv:2408.07978).
    """
    params = [draw.params for draw in draws]
    temperatures = logits.new_tensor([row.temperature for row in params]).unsqueeze(1)
    # Subtracting the maximum first keeps a tiny temperature from overflowing.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperatures
    times = exponentials([(draw.params.seed, draw.position) for draw in draws], logits.shape[-1], logits.device)
    drawn: list[int] = filtered(scaled, params).exp().div_(times).argmax(-1).tolist()
    return drawn


def _rows(logits: Tensor, rows: Sequence[int]) -> Tensor:
    return logits if len(rows) == len(logits) else logits[torch.tensor(rows, device=logits.device)]
