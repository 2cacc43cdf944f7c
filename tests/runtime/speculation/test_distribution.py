"""Sampled with guesses, tokens have the model's own distribution; and guesses from one near it are often right."""

import random
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from queue import SimpleQueue

import torch
from torch import Tensor

from runtime.batch import Batch
from runtime.block_pool import BlockPool
from runtime.engine.manifest import Limits, Scheduling
from runtime.loop import EngineLoop
from runtime.request import Delta, Request
from runtime.sampling import SamplingParams, sample
from runtime.scheduler import Scheduler
from runtime.text import Detokenizer
from tests.generation import Counted

VOCAB = 4
SEEDS = 4000
_generator = torch.Generator().manual_seed(3)
MODEL = torch.randn(VOCAB, VOCAB, generator=_generator)
DRAFT = MODEL + torch.randn(VOCAB, VOCAB, generator=_generator)


class Markov:
    """An engine whose logits, a row of MODEL, follow from the last token alone."""

    device = torch.device("cpu")

    def forward(self, batch: Batch) -> Tensor:
        return MODEL[batch.tokens[batch.logit_rows]]


class MarkovDraft:
    """Three guesses from DRAFT, by the request's own draws."""

    def check(self, engine: Path) -> None:
        pass

    def forget(self, request: Request) -> None:
        pass

    def propose(self, requests: Sequence[Request]) -> None:
        for count in range(3 if requests else 0):
            last = [[*request.tokens, *request.drafts][-1] for request in requests]
            choices = sample(DRAFT[last], [request.draw(count) for request in requests])
            for request, choice in zip(requests, choices, strict=True):
                request.drafts = [*request.drafts, choice.token]


def test_by_chi_square_over_all_answers_of_three_tokens() -> None:
    ended: SimpleQueue[tuple[int, ...]] = SimpleQueue()
    limits = Limits(max_model_len=64, max_batch_size=64, max_num_tokens=512)
    scheduler = Scheduler(limits, Scheduling(max_waiting=SEEDS), BlockPool(256, 16))
    loop = EngineLoop(lambda: (Markov(), scheduler, MarkovDraft()))
    with Counted() as drafts:
        for seed in random.Random(1).sample(range(2**62), SEEDS):
            loop.submit(request := make_request(seed, ended))
        answers = Counter(ended.get(timeout=30) for _ in range(SEEDS))
        loop.drain()
    assert request.generated == 3
    model, draft = (table.softmax(-1) for table in (MODEL, DRAFT))
    expected = {
        (a, b, c): SEEDS * prod((model[0, a].item(), model[a, b].item(), model[b, c].item()))
        for a in range(VOCAB)
        for b in range(VOCAB)
        for c in range(VOCAB)
    }
    chi_square = sum((answers[key] - count) ** 2 / count for key, count in expected.items())
    assert chi_square < 114  # 63 degrees of freedom: p < 1e-4
    overlap = torch.minimum(model, draft).sum(-1)
    assert drafts.right / drafts.guessed > (overlap / (2 - overlap)).min()
    assert drafts.right < drafts.guessed


def make_request(seed: int, ended: "SimpleQueue[tuple[int, ...]]") -> Request:
    """Starts at token 0."""

    def deliver(delta: Delta) -> None:
        if delta.finish_reason:
            ended.put(tuple(request.tokens[1:]))

    request = Request((0,), SamplingParams(temperature=1.0, seed=seed), 3, deliver, Detokenizer(lambda ids: ""))
    return request


def test_draws_from_near_logits_agree_about_as_often_as_they_can() -> None:
    """The bound is that of Daliri et al., arXiv:2408.07978."""
    generator = torch.Generator().manual_seed(5)
    model = 2 * torch.randn(1000, generator=generator)
    draft = model + 0.5 * torch.randn(1000, generator=generator)
    overlap = torch.minimum(model.softmax(-1), draft.softmax(-1)).sum().item()
    requests = [make_request(seed, SimpleQueue()) for seed in range(2000)]
    drawn = [sample(logits.expand(2000, -1), [request.draw() for request in requests]) for logits in (model, draft)]
    agreed = sum(one.token == other.token for one, other in zip(*drawn, strict=True)) / 2000
    assert overlap / (2 - overlap) - 0.03 < agreed < overlap + 0.03
