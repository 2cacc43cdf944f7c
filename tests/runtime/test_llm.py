"""LLM: what a model.py sees, on a tiny random Llama."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runtime.engine.engine import Engine
from runtime.errors import EngineError, InputError, QueueFullError
from runtime.llm import LLM, Prediction
from runtime.request import FinishReason
from runtime.sampling import SamplingParams
from runtime.scheduler import Scheduler
from tests.conftest import TinyEngine


@pytest.fixture(scope="module")
def llm(tiny_engine: TinyEngine) -> Iterator[LLM]:
    llm = LLM(tiny_engine())
    yield llm
    llm.close()


@pytest.fixture
async def quiet(llm: LLM) -> AsyncIterator[LLM]:
    """Fails a test that leaves a request or a block behind."""
    yield llm
    for _ in range(200):
        stats = llm.stats()
        if not stats.running and not stats.waiting and stats.free_blocks == stats.total_blocks:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"left behind: {llm.stats()}")


def predict(length: int = 5, new: int = 8, **sampling: float) -> Prediction:
    params = SamplingParams(**sampling)  # type: ignore[arg-type]
    return Prediction(tuple(range(10, 10 + length)), params, new, (), False, 1)


async def tokens(llm: LLM, prediction: Prediction) -> list[int]:
    return [token async for delta in llm.deltas(prediction) for token in delta.tokens]


async def test_max_new_tokens_1_is_one_token(quiet: LLM) -> None:
    deltas = [delta async for delta in quiet.deltas(predict(new=1))]
    assert [len(delta.tokens) for delta in deltas] == [1]
    assert deltas[-1].finish_reason is FinishReason.LENGTH


async def test_the_stream_joins_to_the_whole(quiet: LLM) -> None:
    prediction = predict(new=30)
    text = await quiet.generate(prediction)
    assert text
    for interval in (1, 4, 100):
        pieces = [piece async for piece in quiet.stream(replace(prediction, streaming_interval=interval))]
        assert "".join(pieces) == text
        assert len(pieces) <= -(-30 // interval)


async def test_a_stop_string_ends_it_and_is_left_out(quiet: LLM) -> None:
    text = await quiet.generate(predict(new=40))
    stop = text[10:14]
    assert await quiet.generate(replace(predict(new=40), stop=(stop,))) == text[: text.index(stop)]


async def test_the_eos_token_ends_it(quiet: LLM) -> None:
    """At this temperature all 320 tokens are about as likely, so among eight long requests some draw EOS."""
    runs = await asyncio.gather(*(tokens(quiet, predict(new=400, temperature=100.0, seed=s)) for s in range(8)))
    ended = [run for run in runs if 2 in run]
    assert ended
    assert all(run.index(2) == len(run) - 1 for run in ended)
    assert all(len(run) == 400 for run in runs if 2 not in run)


async def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(quiet: LLM) -> None:
    seeded = predict(new=12, temperature=1.0, seed=7)
    alone = await tokens(quiet, seeded)
    others = [predict(length, 20, temperature=1.0, seed=length) for length in range(1, 9)]
    batch = await asyncio.gather(*(tokens(quiet, prediction) for prediction in [*others, seeded]))
    assert batch[-1] == alone
    assert len({tuple(row) for row in batch}) == len(batch)


async def test_16_at_once_are_all_right_and_short_ones_overtake_long_ones(quiet: LLM) -> None:
    predictions = [predict(3 + i, 200 if i < 8 else 4) for i in range(16)]
    alone = [await tokens(quiet, prediction) for prediction in predictions]
    finished: list[int] = []

    async def one(index: int) -> list[int]:
        got = await tokens(quiet, predictions[index])
        finished.append(index)
        return got

    assert await asyncio.gather(*map(one, range(16))) == alone
    longest = {i for i in range(16) if len(alone[i]) > 100}
    assert longest, "the long requests came first"
    assert set(finished[-len(longest) :]) == longest


async def test_leaving_a_stream_frees_its_place_within_a_step(quiet: LLM) -> None:
    async with aclosing(quiet.stream(predict(new=480))) as stream:
        async for _ in stream:
            break
    for _ in range(100):
        if not quiet.stats().running:
            break
        await asyncio.sleep(0.01)
    assert quiet.stats().running == 0


async def test_cancelling_at_any_stage_frees_everything(quiet: LLM) -> None:
    tasks = [asyncio.create_task(tokens(quiet, predict(100 + i, 200))) for i in range(12)]
    for delay, task in enumerate(tasks):
        await asyncio.sleep(0.002 * (delay % 4))
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(result, asyncio.CancelledError) for result in results)
    assert all(isinstance(result, asyncio.CancelledError | list) for result in results)


async def test_a_full_queue_refuses_and_the_rest_is_served(tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine(max_batch_size=1), max_waiting=2)
    try:
        results = await asyncio.gather(*(tokens(llm, predict(new=50)) for _ in range(8)), return_exceptions=True)
    finally:
        llm.close()
    refused = [result for result in results if isinstance(result, QueueFullError)]
    served = [result for result in results if isinstance(result, list)]
    assert refused
    assert len(refused) + len(served) == 8
    assert all(result == served[0] for result in served)


async def test_closing_tells_whoever_still_waits(tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine())
    assert llm.healthy
    task = asyncio.create_task(tokens(llm, predict(new=480)))
    await asyncio.sleep(0.05)
    await asyncio.to_thread(llm.close)
    assert not llm.healthy
    with pytest.raises(EngineError, match="stopped"):
        await task
    with pytest.raises(EngineError, match="stopped"):
        await tokens(llm, predict())


async def test_a_failing_step_ends_its_requests_and_not_the_engine(
    tiny_engine: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = LLM(tiny_engine())
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "forward", lambda self, batch: torch.zeros(1)[7])
        with pytest.raises(EngineError, match="out of bounds"):
            await tokens(llm, predict())
    assert len(await tokens(llm, predict())) == 8
    assert llm.stats().free_blocks == llm.stats().total_blocks
    llm.close()


async def test_when_the_thread_fails_everybody_is_told(
    tiny_engine: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = LLM(tiny_engine())
    monkeypatch.setattr(Scheduler, "schedule", lambda self: 1 / 0)
    results = await asyncio.gather(*(tokens(llm, predict()) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, EngineError) and "stopped" in str(result) for result in results)
    assert not llm.healthy


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": "the fox " * 300}, r"has \d+ tokens; max_model_len is 512"),
        ({"prompt": "the", "max_new_tokens": 512}, r"more than max_model_len 512; ask for at most 51\d"),
        ({"prompt": "the", "temperature": "hot"}, "temperature"),
    ],
)
def test_a_request_that_cannot_be_served_says_which_limit(llm: LLM, inputs: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        llm.request(inputs)


def test_a_request_takes_the_defaults_of_the_model(llm: LLM) -> None:
    prediction = llm.request({"messages": [{"role": "user", "content": "the fox"}]})
    assert prediction.sampling.temperature == 0
    assert prediction.max_new_tokens == 512 - len(prediction.prompt)
    assert llm.request({"prompt": "a"}).sampling.seed != llm.request({"prompt": "a"}).sampling.seed


def test_too_little_memory_says_what_is_needed(tiny_engine: TinyEngine) -> None:
    with pytest.raises(EngineError, match="max_model_len 512 needs"):
        LLM(tiny_engine(), kv_cache_bytes=1000)


def test_a_folder_without_an_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="trtpack compile"):
        LLM(tmp_path)
