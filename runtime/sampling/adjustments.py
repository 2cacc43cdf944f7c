"""What a request changes about its logits before a token is chosen, in vLLM's order."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from runtime.sampling.draw import Draw
from runtime.sampling.params import SamplingParams


def adjusted(logits: Tensor, draw: Draw) -> Tensor:
    """The logits float32 [vocabulary] of one draw, changed in place or anew. Raises what a processor raises."""
    params, known = draw.params, draw.known()
    if params.allowed_token_ids:
        logits = _only(logits, params.allowed_token_ids)
    if draw.guide:
        draw.guide(logits)
    _bar(logits, [word[-1] for word in params.bad_words if _comes_next(word, known)])
    _bar(logits, draw.barred)
    for processor in params.processors:
        logits = processor(known, logits)
    if params.logit_bias:
        logits.index_add_(0, _ids(logits, params.logit_bias), logits.new_tensor(list(params.logit_bias.values())))
    _penalise(logits, params, known, draw.prompt)
    return logits


def _only(logits: Tensor, allowed: Iterable[int]) -> Tensor:
    index = _ids(logits, allowed)
    return torch.full_like(logits, -torch.inf).index_copy_(0, index, logits[index])


def _bar(logits: Tensor, tokens: Iterable[int]) -> None:
    logits.index_fill_(0, _ids(logits, tokens), -torch.inf)


def _comes_next(word: tuple[int, ...], known: Sequence[int]) -> bool:
    before = len(word) - 1
    return not before or tuple(known[-before:]) == word[:-1]


def _penalise(logits: Tensor, params: SamplingParams, known: Sequence[int], prompt: int) -> None:
    """Repetition as in CTRL (arXiv:1909.05858), presence and frequency as in OpenAI's API."""
    if params.repetition_penalty != 1:
        index = _ids(logits, set(known))
        seen = logits[index]
        penalty = params.repetition_penalty
        logits.index_copy_(0, index, torch.where(seen > 0, seen / penalty, seen * penalty))
    if params.presence_penalty or params.frequency_penalty:
        counts = Counter(known[prompt:])
        index, times = _ids(logits, counts), logits.new_tensor(list(counts.values()))
        logits.index_add_(0, index, -params.presence_penalty - params.frequency_penalty * times)


def _ids(logits: Tensor, tokens: Iterable[int]) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.int64, device=logits.device)
