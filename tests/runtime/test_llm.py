"""LLM: what a model.py sees, on a tiny random Llama."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prometheus_client import REGISTRY

from runtime.batch import Batch
from runtime.engine.engine import Engine
from runtime.engine.manifest import Scheduling
from runtime.errors import DeadlineError, EngineError, InputError, QueueFullError
from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.request import Delta, FinishReason
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
    return Prediction(tuple(range(10, 10 + length)), params, new)


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


@pytest.mark.slow
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
    llm = LLM(tiny_engine(max_batch_size=1), scheduling=Scheduling(max_waiting=2))
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


async def whole(llm: LLM, prediction: Prediction) -> list[Delta]:
    return [delta async for delta in llm.deltas(prediction)]


async def test_stop_token_ids_end_it_and_say_which(quiet: LLM) -> None:
    ids = await tokens(quiet, predict(new=30))
    deltas = await whole(quiet, replace(predict(new=30), stop_token_ids=frozenset({ids[9]})))
    assert [token for delta in deltas for token in delta.tokens] == ids[: ids.index(ids[9]) + 1]
    assert (deltas[-1].finish_reason, deltas[-1].stop) == (FinishReason.STOP, ids[9])


async def test_min_tokens_bars_the_end_and_lets_stop_strings_pass(quiet: LLM) -> None:
    ids, text = await tokens(quiet, predict(new=60)), await quiet.generate(predict(new=60))
    early = replace(predict(new=60, min_tokens=20), stop=(text[0],), stop_token_ids=frozenset({ids[3]}))
    got = await tokens(quiet, early)
    assert len(got) > 20
    assert ids[3] not in got[:20]


async def test_ignore_eos_runs_on(quiet: LLM) -> None:
    """EOS made certain by its bias."""
    wanting = replace(predict(new=12), sampling=SamplingParams(logit_bias={2: 100.0}))
    assert await tokens(quiet, wanting) == [2]
    assert await tokens(quiet, replace(wanting, ignore_eos=True)) == [2] * 12


async def test_include_stop_leaves_it_in(quiet: LLM) -> None:
    text = await quiet.generate(predict(new=40))
    stop = text[10:14]
    end = text.index(stop) + len(stop)
    assert await quiet.generate(replace(predict(new=40), stop=(stop,), include_stop=True)) == text[:end]


async def test_logprobs_come_with_every_token_and_the_prompts_once(quiet: LLM) -> None:
    asked = predict(40, 6, logprobs=2, prompt_logprobs=1)
    deltas = await whole(quiet, asked)
    assert [len(delta.tokens) == len(delta.logprobs) for delta in deltas]
    assert [told.chosen.token for delta in deltas for told in delta.logprobs] == await tokens(quiet, predict(40, 6))
    assert [bool(delta.prompt_logprobs) for delta in deltas] == [True] + [False] * (len(deltas) - 1)
    assert [told.chosen.token for told in deltas[0].prompt_logprobs] == list(asked.prompt[1:])
    best = [told.top[0].token for told in deltas[0].prompt_logprobs]
    again = await tokens(quiet, replace(predict(new=1), prompt=asked.prompt[:20]))
    assert best[19] == again[0], "what is likeliest after 20 tokens is what is generated after them"


async def test_prompt_logprobs_of_chunks_are_those_of_the_whole(tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine(max_num_tokens=7))
    other = LLM(tiny_engine())
    try:
        told = [(await whole(engine, predict(60, 1, prompt_logprobs=0)))[0].prompt_logprobs for engine in (llm, other)]
    finally:
        llm.close()
        other.close()
    chunked, at_once = [[token.chosen.logprob for token in tokens] for tokens in told]
    assert len(chunked) == 59
    assert chunked == pytest.approx(at_once, abs=1e-4)


async def test_n_answers_come_of_one_prompt(quiet: LLM) -> None:
    before = metric("trtpack_prompt_tokens_total"), metric("trtpack_prefix_cache_hits_total")
    prediction = replace(predict(100, 6, temperature=1.0, seed=5), n=3, best_of=3)
    completion = await quiet.complete(prediction)
    alone = [await tokens(quiet, replace(prediction.sibling(index), n=1, best_of=1)) for index in range(3)]
    assert [list(answer.tokens) for answer in completion.answers] == alone
    assert completion.prompt_tokens == 100
    assert metric("trtpack_prompt_tokens_total") - before[0] == 100 * 2
    assert metric("trtpack_prefix_cache_hits_total") - before[1] >= 2 * 96


async def test_best_of_is_ranked_by_log_probability(quiet: LLM) -> None:
    prediction = replace(predict(20, 6, temperature=3.0, seed=5), n=1, best_of=5)
    every = await quiet.complete(replace(prediction, n=5, sampling=replace(prediction.sampling, logprobs=0)))
    (best,) = (await quiet.complete(prediction)).answers
    assert best.tokens == max(every.answers, key=lambda answer: answer.mean_logprob).tokens


async def test_cancelling_several_answers_cancels_all(quiet: LLM) -> None:
    prediction = replace(predict(new=400, temperature=1.0), n=4, best_of=4)
    task = asyncio.create_task(quiet.complete(prediction))
    while quiet.stats().running < 4:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_same_prediction_twice_at_once_is_two_requests(quiet: LLM) -> None:
    prediction = predict(30, 20)
    both = await asyncio.gather(tokens(quiet, prediction), tokens(quiet, prediction))
    assert both[0] == both[1] == await tokens(quiet, prediction)


async def test_a_deadline_frees_the_place_and_says_so(quiet: LLM) -> None:
    with pytest.raises(DeadlineError, match="timeout"):
        await tokens(quiet, replace(predict(new=480), timeout=0.05))


async def test_a_raising_processor_fails_its_own_request_alone(quiet: LLM) -> None:
    def failing(known: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        if len(known) > 9:
            raise ZeroDivisionError("mine")
        return logits

    poisoned = replace(predict(new=20), sampling=SamplingParams(processors=(failing,)))
    results = await asyncio.gather(
        *(tokens(quiet, p) for p in (predict(), poisoned, predict())), return_exceptions=True
    )
    assert isinstance(results[1], EngineError) and "mine" in str(results[1])
    assert results[0] == results[2] == await tokens(quiet, predict())


async def test_nan_logits_of_one_request_fail_it_alone(quiet: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Engine.forward

    def spoilt(self: Engine, batch: Batch) -> torch.Tensor:
        logits = forward(self, batch).clone()
        for row, (chunk, _) in enumerate(batch.wanted):
            if len(chunk.request.prompt) == 6:
                logits[row] = torch.nan
        return logits

    alone = await tokens(quiet, predict(5))
    monkeypatch.setattr(Engine, "forward", spoilt)
    results = await asyncio.gather(*(tokens(quiet, predict(length)) for length in (5, 6)), return_exceptions=True)
    assert results[0] == alone
    assert isinstance(results[1], EngineError) and "nan" in str(results[1])


async def test_a_grammar_is_followed_to_its_end(quiet: LLM) -> None:
    """A random model would never write this by itself."""
    schema = {"type": "object", "properties": {"a": {"enum": [True, False]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    for temperature in (0.0, 1.0):
        inputs = {"prompt": "the fox", "json_schema": schema, "max_new_tokens": 60, "temperature": temperature}
        answer = json.loads(await quiet.generate(quiet.request(inputs)))
        assert answer in ({"a": True}, {"a": False})
    text = await quiet.generate(quiet.request({"prompt": "the", "regex": "(ab|cd){3}x", "max_new_tokens": 40}))
    assert re.fullmatch("(ab|cd){3}x", text)


async def test_draining_lets_everybody_finish_and_refuses_the_rest(tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine())
    task = asyncio.create_task(tokens(llm, predict(new=100)))
    while not llm.stats().running:
        await asyncio.sleep(0.005)
    draining = asyncio.create_task(asyncio.to_thread(llm.drain))
    await asyncio.sleep(0.01)
    with pytest.raises(EngineError, match="stopped"):
        await tokens(llm, predict())
    assert len(await task) == 100
    await draining
    assert not llm.healthy


async def test_a_reset_of_the_prefix_cache_under_load_changes_no_answer(quiet: LLM) -> None:
    predictions = [predict(40, 60) for _ in range(4)]
    alone = await tokens(quiet, predictions[0])
    tasks = [asyncio.create_task(tokens(quiet, prediction)) for prediction in predictions]
    for _ in range(5):
        await asyncio.sleep(0.01)
        quiet.reset_prefix_cache()
    assert await asyncio.gather(*tasks) == [alone] * 4


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0
