"""Beam search finds what transformers finds, and leaves nothing behind."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from prometheus_client import REGISTRY

from runtime.engine.engine import Engine
from runtime.engine.manifest import Scheduling
from runtime.errors import DeadlineError, EngineError, InputError, QueueFullError
from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.request import FinishReason
from runtime.sampling import SamplingParams
from tests.conftest import TinyEngine
from tests.tiny import FAMILIES, VOCAB

pytestmark = pytest.mark.usefixtures("one_thread")

EOS = 2
NEW = 12
PROMPTS = tuple(
    tuple(torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(length)).tolist())
    for length in (3, 20, 37)
)
Generate = Callable[..., list[list[int]]]


@pytest.fixture(scope="module")
def serve(tiny_engine: TinyEngine) -> Iterator[Callable[[str], LLM]]:
    made: dict[str, LLM] = {}

    def of(family: str = "llama") -> LLM:
        if family not in made:
            made[family] = LLM(tiny_engine(family))
        return made[family]

    yield of
    for llm in made.values():
        llm.close()
        assert llm.stats().free_blocks == llm.stats().total_blocks


@pytest.fixture(scope="module")
def generate(tiny_checkpoint: Callable[[str], Path]) -> Generate:
    """All `num_return_sequences` of transformers, each up to and with its end-of-sequence token."""

    @cache
    def model(family: str) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint(family), dtype=torch.float32)

    def run(family: str, prompt: tuple[int, ...], ends: list[int], **options: Any) -> list[list[int]]:
        ids = torch.tensor([prompt])
        options = {"early_stopping": True, "do_sample": False, "max_new_tokens": NEW, **options}
        out = model(family).generate(
            ids, attention_mask=torch.ones_like(ids), eos_token_id=ends or None, pad_token_id=0, **options
        )
        return [_until(row[len(prompt) :].tolist(), ends) for row in out]

    return run


def _until(row: list[int], ends: list[int]) -> list[int]:
    first = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: first + 1]


def beams(prompt: tuple[int, ...], width: int, n: int = 1, **fields: Any) -> Prediction:
    given = {"sampling": SamplingParams(), "max_new_tokens": NEW, **fields}
    return Prediction(prompt, beam_width=width, n=n, **given)


async def found(llm: LLM, prediction: Prediction) -> list[list[int]]:
    return [list(answer.tokens) for answer in (await llm.complete(prediction)).answers]


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(f"trtpack_{name}") or 0.0


async def idle(llm: LLM) -> None:
    """Returns once no request is left, nor a block of one; the engine's thread may be a step behind its clients."""
    async with asyncio.timeout(10):
        while (stats := llm.stats()).running or stats.waiting or stats.free_blocks < stats.total_blocks:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("width", [4])
@pytest.mark.parametrize("family", FAMILIES)
async def test_every_beam_is_the_one_of_transformers(
    family: str, width: int, serve: Callable[[str], LLM], generate: Generate
) -> None:
    for prompt in PROMPTS:
        expected = generate(family, prompt, [EOS], num_beams=width, num_return_sequences=width)
        assert await found(serve(family), beams(prompt, width, width)) == expected
        assert await found(serve(family), beams(prompt, width)) == expected[:1]


@pytest.fixture(scope="module")
def likely(serve: Callable[[str], LLM]) -> list[int]:
    """Tokens that come up often, so that as ends they end beams early: the first prompt's third to fifth."""
    (answer,) = asyncio.run(found(serve("llama"), beams(PROMPTS[0], 4)))
    return answer[2:5]


@pytest.mark.parametrize("penalty", [-1.0, 0.6, 3.0])
@pytest.mark.parametrize("width", [1, 3, pytest.param(5, marks=pytest.mark.slow)])
async def test_beams_that_end_early_are_those_of_transformers(
    width: int, penalty: float, serve: Callable[[str], LLM], generate: Generate, likely: list[int]
) -> None:
    """One end, three, which can take up all of twice the width, and so many that the search itself ends early."""
    early = 0
    for ends in ([likely[0]], likely, list(range(5, VOCAB, 8))):
        for prompt in PROMPTS:
            options = {"num_beams": width, "num_return_sequences": width, "length_penalty": penalty}
            if width == 1:
                options = {}
            expected = generate("llama", prompt, ends, **options)
            prediction = beams(prompt, width, width, length_penalty=penalty, stop_token_ids=frozenset(ends))
            assert await found(serve("llama"), replace(prediction, ignore_eos=True)) == expected
            early += sum(len(answer) < NEW for answer in expected)
    assert early


async def test_min_tokens_is_as_transformers_min_new_tokens(
    serve: Callable[[str], LLM], generate: Generate, likely: list[int]
) -> None:
    expected = generate("llama", PROMPTS[0], likely, num_beams=3, num_return_sequences=3, min_new_tokens=5)
    prediction = beams(PROMPTS[0], 3, 3, stop_token_ids=frozenset(likely), sampling=SamplingParams(min_tokens=5))
    assert await found(serve("llama"), replace(prediction, ignore_eos=True)) == expected
    assert all(len(answer) > 5 for answer in expected)


@pytest.mark.parametrize("family", FAMILIES)
async def test_one_beam_is_greedy(family: str, serve: Callable[[str], LLM]) -> None:
    for prompt in PROMPTS:
        greedy = replace(beams(prompt, 0), beam_width=0)
        assert await found(serve(family), beams(prompt, 1)) == await found(serve(family), greedy)


async def test_a_wider_beam_is_never_less_likely(serve: Callable[[str], LLM]) -> None:
    def whole(width: int) -> Prediction:
        return beams(PROMPTS[1], width, sampling=SamplingParams(logprobs=0), ignore_eos=True)

    scores = []
    for width in (1, 10):
        (answer,) = (await serve("llama").complete(whole(width))).answers
        scores.append(answer.mean_logprob)
    assert scores[1] > scores[0], "of equal length, so that means compare"


async def test_text_finish_reason_and_stop_are_those_of_any_answer(
    serve: Callable[[str], LLM], likely: list[int]
) -> None:
    llm = serve("llama")
    (cut,) = (await llm.complete(beams(PROMPTS[0], 2, ignore_eos=True))).answers
    assert (cut.finish_reason, cut.stop, len(cut.tokens)) == (FinishReason.LENGTH, None, NEW)
    ending = beams(PROMPTS[0], 2, ignore_eos=True, stop_token_ids=frozenset(likely), length_penalty=-3.0)
    (ended,) = (await llm.complete(ending)).answers
    assert (ended.finish_reason, ended.stop) == (FinishReason.STOP, ended.tokens[-1])
    assert ended.stop in likely


@pytest.mark.parametrize("asked", [None, 0, 2])
async def test_logprobs_are_told_where_asked_for(asked: int | None, serve: Callable[[str], LLM]) -> None:
    prediction = beams(PROMPTS[1], 3, 2, sampling=SamplingParams(logprobs=asked))
    completion = await serve("llama").complete(prediction)
    for answer in completion.answers:
        assert [told.chosen.token for told in answer.logprobs] == ([] if asked is None else list(answer.tokens))
        assert {len(told.top) for told in answer.logprobs} <= {asked}
    json = completion.json(prediction)
    assert ("logprobs" in json) == (asked is not None)
    assert json["outputs"] == [answer.text for answer in completion.answers]


async def test_a_beam_s_prefix_is_computed_once(serve: Callable[[str], LLM]) -> None:
    llm, prompt = serve("llama"), tuple(range(3, 103))
    llm.reset_prefix_cache()
    queries, hits, told = (
        metric(f"{name}_total") for name in ("prefix_cache_queries", "prefix_cache_hits", "prompt_tokens")
    )
    await found(llm, beams(prompt, 4, ignore_eos=True))
    steps = 1 + 4 * (NEW - 1)
    assert metric("prefix_cache_queries_total") - queries >= 100 * steps
    assert metric("prefix_cache_hits_total") - hits >= 96 * (steps - 1)
    assert metric("prompt_tokens_total") - told == 100, "the prompt counts once"


async def test_without_a_prefix_cache_it_is_the_same(serve: Callable[[str], LLM], tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine(), scheduling=Scheduling(prefix_caching=False))
    try:
        assert await found(llm, beams(PROMPTS[2], 3, 3)) == await found(serve("llama"), beams(PROMPTS[2], 3, 3))
    finally:
        llm.close()


async def test_beside_other_requests_it_is_the_same(serve: Callable[[str], LLM]) -> None:
    llm, prediction = serve("llama"), beams(PROMPTS[2], 3, 3)
    alone = await found(llm, prediction)
    others = [Prediction(PROMPTS[1], SamplingParams(temperature=1.0, seed=seed), 40) for seed in range(4)]
    together = await asyncio.gather(found(llm, prediction), found(llm, prediction), *(found(llm, o) for o in others))
    assert together[:2] == [alone, alone]


async def test_cancelling_it_frees_everything(serve: Callable[[str], LLM]) -> None:
    llm = serve("llama")
    task = asyncio.create_task(found(llm, beams(tuple(range(3, 203)), 8, max_new_tokens=200)))
    while llm.stats().running < 8:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await idle(llm)


async def test_its_timeout_is_that_of_the_whole_search(serve: Callable[[str], LLM]) -> None:
    """No step of it takes a tenth of this."""
    with pytest.raises(DeadlineError, match="timeout"):
        await found(serve("llama"), beams(PROMPTS[0], 2, max_new_tokens=400, timeout=0.3, ignore_eos=True))


async def test_a_failing_step_fails_it_and_frees_everything(
    serve: Callable[[str], LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, left = Engine.forward, iter(range(3))

    def failing(self: Engine, batch: Any) -> torch.Tensor:
        if next(left, None) is None:
            raise RuntimeError("out of luck")
        return forward(self, batch)

    llm = serve("llama")
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "forward", failing)
        with pytest.raises(EngineError, match="out of luck"):
            await found(llm, beams(PROMPTS[0], 4))
    await idle(llm)


async def test_a_full_queue_refuses_it_and_frees_everything(tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine(max_batch_size=1), scheduling=Scheduling(max_waiting=1))
    try:
        with pytest.raises(QueueFullError):
            await found(llm, beams(PROMPTS[0], 8))
        await idle(llm)
    finally:
        llm.close()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"n": 3}, "beam_width is 2, fewer than the 3 of n"),
        ({"best_of": 2}, "does not heed best_of"),
        ({"stop": "x"}, "does not heed stop"),
        ({"regex": "a+"}, "does not heed regex"),
        ({"json_schema": {}}, "does not heed json_schema"),
        ({"prompt_logprobs": 0}, "does not heed prompt_logprobs"),
        ({"logit_bias": {"3": 1.0}, "presence_penalty": 1.0}, "does not heed presence_penalty, logit_bias"),
        ({"streaming": True}, "a stream is one answer"),
        ({"beam_width": 0}, "beam_width: .*greater than or equal to 1"),
        ({"beam_width": 11}, "beam_width: .*less than or equal to 10"),
        ({"length_penalty": 1e9}, "length_penalty: .*less than or equal to 10"),
    ],
)
def test_what_it_cannot_do_is_refused(inputs: dict[str, Any], message: str, serve: Callable[[str], LLM]) -> None:
    with pytest.raises(InputError, match=message):
        serve("llama").request({"prompt": "the fox", "beam_width": 2, **inputs})


async def test_a_client_s_request_for_beams_is_served(serve: Callable[[str], LLM]) -> None:
    llm = serve("llama")
    inputs = {"prompt": "the fox", "num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4}
    prediction = llm.request({**inputs, "length_penalty": -10, "min_tokens": 2})
    assert len((await llm.complete(prediction)).json(prediction)["outputs"]) == 2
