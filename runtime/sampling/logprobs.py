"""Log-probabilities as the model gave them: before penalties, temperature and filters (vLLM's `raw_logprobs`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Logprob:
    """A token's log-probability, and its rank, 1 for the likeliest."""

    token: int
    logprob: float
    rank: int


@dataclass(frozen=True)
class TokenLogprobs:
    """The chosen token's, and the likeliest ones', best first."""

    chosen: Logprob
    top: tuple[Logprob, ...] = ()


def of(logits: Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[TokenLogprobs]:
    """For each row of logits float32 [rows, vocabulary]: its token's, and those of the `counts` likeliest."""
    logprobs = logits.log_softmax(-1)
    best, ids = logprobs.topk(min(max(counts), logits.shape[-1]))
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1))
    ranks = (logprobs > chosen).sum(-1).add(1).tolist()
    rows = zip(tokens, counts, chosen[:, 0].tolist(), ranks, best.tolist(), ids.tolist(), strict=True)
    return [
        TokenLogprobs(
            Logprob(token, logprob, rank),
            tuple(
                Logprob(*pair, index) for index, pair in enumerate(zip(near[:count], values[:count], strict=True), 1)
            ),
        )
        for token, count, logprob, rank, values, near in rows
    ]
