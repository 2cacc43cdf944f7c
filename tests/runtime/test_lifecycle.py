"""Requests that come, go and are given up at every stage, with the engine's steps held one by one."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from prometheus_client import REGISTRY

from runtime.batch import Batch
from runtime.engine.engine import Engine
from runtime.errors import EngineError, InputError
from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.request import Delta, FinishReason
from runtime.sampling import SamplingParams
from tests.conftest import TinyEngine
from tests.tiny import VOCAB

pytestmark = pytest.mark.usefixtures("one_thread")

MAX_MODEL_LEN = 64


class Steps:
    """The engine's steps: each waits, once it has begun, until it may end."""

    def __init__(self) -> None:
        self._begun, self._allowed = threading.Semaphore(0), threading.Semaphore(0)
        self.free = True

    def hold(self) -> None:
        self.free = False

    def release(self) -> None:
        self.free = True
        self._allowed.release(1000)

    def wrap(self, forward: Callable[[Engine, Batch], torch.Tensor]) -> Callable[[Engine, Batch], torch.Tensor]:
        def held(engine: Engine, batch: Batch) -> torch.Tensor:
            if not self.free:
                self._begun.release()
                assert self._allowed.acquire(timeout=20)
            return forward(engine, batch)

        return held

    async def begun(self, count: int = 1) -> None:
        """Until one more step has begun; of several, all but the last are let go."""
        for left in reversed(range(count)):
            assert await asyncio.to_thread(self._begun.acquire, timeout=20), "no step begins"
            if left:
                self._allowed.release()


@pytest.fixture(scope="module")
def engine(tiny_engine: TinyEngine) -> Iterator[LLM]:
    llm = LLM(tiny_engine(max_batch_size=2, max_num_tokens=16, max_model_len=MAX_MODEL_LEN))
    yield llm
    llm.close()


@pytest.fixture
async def llm(engine: LLM) -> AsyncIterator[LLM]:
    """Fails a test that leaves a request or a block behind, or breaks what comes after it."""
    before = await tokens(engine, predict(5, 6))
    yield engine
    await idle(engine)
    assert await tokens(engine, predict(5, 6)) == before


@pytest.fixture
def steps(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    steps = Steps()
    monkeypatch.setattr(Engine, "forward", steps.wrap(Engine.forward))
    steps.hold()
    yield steps
    steps.release()


def predict(length: int, new: int, **sampling: Any) -> Prediction:
    return Prediction(tuple(range(10, 10 + length)), SamplingParams(**sampling), new, ignore_eos=True)


async def whole(llm: LLM, prediction: Prediction) -> list[Delta]:
    return [delta async for delta in llm.deltas(prediction)]


async def tokens(llm: LLM, prediction: Prediction) -> list[int]:
    return [token for delta in await whole(llm, prediction) for token in delta.tokens]


async def idle(llm: LLM) -> None:
    """Returns once no request is left, nor a block of one; the engine's thread may be a step behind its clients."""
    async with asyncio.timeout(10):
        while (stats := llm.stats()).running or stats.waiting or stats.free_blocks < stats.total_blocks:
            await asyncio.sleep(0.002)


async def begin(llm: LLM, *predictions: Prediction) -> list[asyncio.Task[list[int]]]:
    """Tasks whose requests have been submitted."""
    tasks = [asyncio.create_task(tokens(llm, prediction)) for prediction in predictions]
    await asyncio.sleep(0)
    return tasks


async def cancel(task: asyncio.Task[list[int]]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def hits() -> float:
    return REGISTRY.get_sample_value("trtpack_prefix_cache_hits_total") or 0.0


async def test_one_given_up_while_it_waits_never_runs_and_the_others_do(llm: LLM, steps: Steps) -> None:
    tasks = await begin(llm, predict(5, 3), predict(6, 3), predict(7, 3), predict(8, 3))
    await steps.begun(2)
    assert (llm.stats().running, llm.stats().waiting) == (2, 2)
    await cancel(tasks[2])
    steps.release()
    answers = [await task for task in (tasks[0], tasks[1], tasks[3])]
    assert answers == [await tokens(llm, predict(length, 3)) for length in (5, 6, 8)]


async def test_one_given_up_in_the_middle_of_its_prompt_leaves_the_other_as_it_is(llm: LLM, steps: Steps) -> None:
    """Forty tokens are three chunks of at most sixteen; its first full block was published and may be shared."""
    long, other = await begin(llm, predict(40, 3), predict(5, 8))
    await steps.begun(2)
    await cancel(long)
    steps.release()
    answer = await other
    await idle(llm)
    assert answer == await tokens(llm, predict(5, 8))
    assert len(await tokens(llm, predict(40, 3))) == 3


async def test_one_given_up_in_the_middle_of_its_answer_leaves_the_other_as_it_is(llm: LLM, steps: Steps) -> None:
    first, other = await begin(llm, predict(5, 20), predict(6, 8))
    await steps.begun(4)
    await cancel(first)
    steps.release()
    assert await other == await tokens(llm, predict(6, 8))


async def test_one_given_up_in_its_last_step_has_ended_anyway(llm: LLM, steps: Steps) -> None:
    """The step ends the request, then finds it given up."""
    (task,) = await begin(llm, predict(5, 2))
    await steps.begun(2)
    await cancel(task)
    steps.release()
    await idle(llm)


async def test_all_given_up_at_once_leave_an_engine_that_serves(llm: LLM, steps: Steps) -> None:
    tasks = await begin(llm, *(predict(length, 20) for length in range(3, 12)))
    await steps.begun()
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    steps.release()
    await idle(llm)


async def test_giving_up_twice_or_after_the_end_does_nothing(llm: LLM) -> None:
    deltas = llm.deltas(predict(5, 20))
    await anext(deltas)
    await deltas.aclose()
    await deltas.aclose()
    ended = llm.deltas(predict(5, 2))
    assert [delta.finish_reason async for delta in ended][-1] is FinishReason.LENGTH
    await ended.aclose()


async def test_a_stream_nobody_begins_to_read_is_no_request(llm: LLM) -> None:
    deltas = llm.deltas(predict(5, 20))
    await deltas.aclose()
    assert llm.stats().running == llm.stats().waiting == 0


async def test_the_same_prediction_again_after_it_was_given_up_is_whole(llm: LLM, steps: Steps) -> None:
    (task,) = await begin(llm, prediction := predict(20, 6))
    await steps.begun(3)
    await cancel(task)
    steps.release()
    again = await tokens(llm, prediction)
    llm.reset_prefix_cache()
    assert again == await tokens(llm, prediction)


async def test_one_token_is_one_step(llm: LLM, steps: Steps) -> None:
    (task,) = await begin(llm, predict(5, 1))
    await steps.begun()
    steps._allowed.release()
    assert len(await task) == 1
    await idle(llm)


async def test_the_context_can_be_filled_to_its_last_token(llm: LLM) -> None:
    deltas = await whole(llm, predict(MAX_MODEL_LEN - 1, 1))
    assert (len(deltas), deltas[-1].finish_reason) == (1, FinishReason.LENGTH)
    deltas = await whole(llm, predict(1, MAX_MODEL_LEN - 1))
    assert sum(len(delta.tokens) for delta in deltas) == MAX_MODEL_LEN - 1
    assert deltas[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("length", [MAX_MODEL_LEN, MAX_MODEL_LEN + 1])
def test_a_prompt_as_long_as_the_context_is_refused_with_both_numbers(engine: LLM, length: int) -> None:
    with pytest.raises(InputError, match=f"it has {length} tokens; max_model_len is {MAX_MODEL_LEN}"):
        engine.request({"prompt": "!" * length})


def test_without_max_new_tokens_an_answer_gets_what_is_left(engine: LLM) -> None:
    assert engine.request({"prompt": "!" * (MAX_MODEL_LEN - 1)}).max_new_tokens == 1
    with pytest.raises(InputError, match="ask for at most 1"):
        engine.request({"prompt": "!" * (MAX_MODEL_LEN - 1), "max_new_tokens": 2})


async def test_logprobs_of_the_whole_vocabulary_sum_to_one(llm: LLM) -> None:
    asked = predict(20, 4, logprobs=VOCAB, prompt_logprobs=VOCAB, temperature=1.5, seed=2)
    deltas = await whole(llm, asked)
    told = [one for delta in deltas for one in (*delta.logprobs, *delta.prompt_logprobs)]
    assert len(told) == 4 + 19
    for one in told:
        assert math.fsum(math.exp(near.logprob) for near in one.top) == pytest.approx(1, abs=1e-4)
        assert sorted(near.token for near in one.top) == list(range(VOCAB))
        assert [near.logprob for near in one.top] == sorted((near.logprob for near in one.top), reverse=True)
        (own,) = [near for near in one.top if near.token == one.chosen.token]
        assert own.logprob == pytest.approx(one.chosen.logprob)


async def test_prompt_logprobs_are_the_same_where_the_prompt_is_cached(llm: LLM) -> None:
    asked = predict(40, 2, prompt_logprobs=0)
    first = (await whole(llm, asked))[0].prompt_logprobs
    before = hits()
    again = (await whole(llm, asked))[0].prompt_logprobs
    assert hits() == before, "what is cached has no logits"
    assert again == first
    await tokens(llm, predict(40, 2))
    assert hits() == before + 32, "but it is there for others"


async def test_prompts_of_other_salts_share_nothing(llm: LLM) -> None:
    def salted(salt: str) -> Prediction:
        return replace(predict(40, 2), cache_salt=salt)

    answer = await tokens(llm, salted("one"))
    before = hits()
    assert await tokens(llm, salted("two")) == answer
    assert hits() == before
    assert await tokens(llm, salted("one")) == answer
    assert hits() == before + 32


async def test_the_end_of_sequence_is_in_the_tokens_and_not_in_the_text(llm: LLM) -> None:
    ending = replace(predict(5, 8, logit_bias={2: 100.0}), ignore_eos=False)
    deltas = await whole(llm, ending)
    assert [(delta.text, delta.tokens, delta.finish_reason, delta.stop) for delta in deltas] == [
        ("", (2,), FinishReason.STOP, None)
    ]
    assert await llm.generate(replace(ending, skip_special_tokens=False)) == ""


@pytest.mark.parametrize(("hidden", "text"), [(True, ""), (False, "<|im_start|>" * 3)])
async def test_special_tokens_within_an_answer_are_hidden_or_shown(llm: LLM, hidden: bool, text: str) -> None:
    prediction = replace(predict(5, 3, logit_bias={1: 100.0}), skip_special_tokens=hidden)
    assert await llm.generate(prediction) == text
    assert "".join([piece async for piece in llm.stream(prediction)]) == text


async def test_a_stop_token_among_the_ends_of_sequence_says_which(llm: LLM) -> None:
    ending = replace(predict(5, 8, logit_bias={2: 100.0}), ignore_eos=False, stop_token_ids=frozenset({2}))
    deltas = await whole(llm, ending)
    assert (deltas[-1].finish_reason, deltas[-1].stop) == (FinishReason.STOP, 2)


async def test_draining_serves_those_that_wait_as_well(tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine(max_batch_size=1))
    tasks = await begin(llm, *(predict(5, 20) for _ in range(4)))
    await asyncio.to_thread(llm.drain)
    assert [len(answer) for answer in await asyncio.gather(*tasks)] == [20] * 4
    with pytest.raises(EngineError, match="stopped"):
        await tokens(llm, predict(5, 1))
    llm.drain()
    llm.close()
    assert not llm.healthy
