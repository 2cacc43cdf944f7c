"""What a scripted run leaves in the metrics."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import REGISTRY, generate_latest

from runtime.engine.engine import Engine
from runtime.engine.manifest import Scheduling
from runtime.errors import DeadlineError, EngineError, QueueFullError
from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.request import Request
from runtime.sampling import SamplingParams
from tests.conftest import TinyEngine

pytestmark = pytest.mark.usefixtures("one_thread")

# vLLM 0.33's names after `vllm:`, counters with the `_total` that the exposition adds.
VLLM = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "num_preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "spec_decode_num_drafts_total",
    "spec_decode_num_draft_tokens_total",
    "spec_decode_num_accepted_tokens_total",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
)
GAUGES = VLLM[:3]
BLOCK = 16
BYTES_OF_128_TOKENS = 128 * 2 * 3 * 2 * 16 * 4  # K and V, layers, KV heads, head_dim, float32


def samples() -> dict[str, float]:
    """Every sample of ours; a histogram's count, and its sum, by their own names."""
    found = {}
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.name.startswith("trtpack_") and not sample.name.endswith(("_bucket", "_created")):
                name = sample.name.removeprefix("trtpack_")
                found[f"{name}.{sample.labels['finished_reason']}" if "finished_reason" in sample.labels else name] = (
                    sample.value
                )
    return found


class Change:
    """What has changed since it was made; without the sums of seconds."""

    def __init__(self) -> None:
        self._before = samples()

    def now(self) -> Mapping[str, float]:
        counted = {name: value for name, value in samples().items() if not name.endswith("_sum")}
        moved = {name: value - self._before.get(name, 0.0) for name, value in counted.items()}
        return {name: value for name, value in moved.items() if value and name not in GAUGES}


async def settled(llm: LLM) -> None:
    """Returns once the gauges say that nothing is left; the engine's thread may be a step behind its clients."""
    async with asyncio.timeout(10):
        while any(samples()[name] for name in GAUGES) or llm.stats().running or llm.stats().waiting:
            await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def llm(tiny_engine: TinyEngine) -> Iterator[LLM]:
    llm = LLM(tiny_engine())
    yield llm
    llm.close()


def predict(length: int = 40, new: int = 8, first: int = 10, **sampling: Any) -> Prediction:
    prompt = tuple((first + 7 * index) % 300 + 10 for index in range(length))
    return Prediction(prompt, SamplingParams(**sampling), new, ignore_eos=True)


async def tokens(llm: LLM, prediction: Prediction) -> list[int]:
    return [token async for delta in llm.deltas(prediction) for token in delta.tokens]


def timed(count: int, gaps: int) -> dict[str, float]:
    """What `count` whole answers with `gaps` gaps between their steps leave in the histograms."""
    whole = ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_prefill_time")
    told = {f"{name}_seconds_count": float(count) for name in (*whole, "request_decode_time")}
    return told | ({"inter_token_latency_seconds_count": float(gaps)} if gaps else {})


def test_names_are_vllm_s_with_our_prefix() -> None:
    text = generate_latest(REGISTRY).decode()
    for name in VLLM:
        assert f"# HELP trtpack_{name}" in text, name


def test_inter_token_latency_has_vllm_s_buckets() -> None:
    (metric,) = (m for m in REGISTRY.collect() if m.name == "trtpack_inter_token_latency_seconds")
    bounds = [float(sample.labels["le"]) for sample in metric.samples if "le" in sample.labels]
    few = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75]
    assert bounds == [*few, 1, 2.5, 5, 7.5, 10, 20, 40, 80, float("inf")]


async def test_one_answer_moves_everything_once(llm: LLM) -> None:
    llm.reset_prefix_cache()
    change, seconds = Change(), samples()
    await tokens(llm, predict(40, 8))
    await settled(llm)
    assert change.now() == timed(1, 7) | {
        "prompt_tokens_total": 40,
        "generation_tokens_total": 8,
        "prefix_cache_queries_total": 40,
        "request_success_total.length": 1,
    }
    parts = ("request_queue_time", "request_prefill_time", "request_decode_time")
    after = samples()
    spent = {
        name: after[f"{name}_seconds_sum"] - seconds[f"{name}_seconds_sum"]
        for name in (*parts, "time_to_first_token", "inter_token_latency", "e2e_request_latency")
    }
    assert spent["e2e_request_latency"] == pytest.approx(sum(spent[part] for part in parts))
    assert spent["time_to_first_token"] == pytest.approx(sum(spent[part] for part in parts[:2]))
    assert spent["inter_token_latency"] == pytest.approx(spent["request_decode_time"])


async def test_a_prompt_that_comes_again_hits_its_full_blocks(llm: LLM) -> None:
    await tokens(llm, predict(40, 1, first=20))
    change = Change()
    await tokens(llm, predict(40, 1, first=20))
    assert change.now()["prefix_cache_queries_total"] == 40
    assert change.now()["prefix_cache_hits_total"] == 2 * BLOCK


async def test_one_token_has_no_gap(llm: LLM) -> None:
    change = Change()
    await tokens(llm, predict(5, 1))
    await settled(llm)
    assert change.now() == timed(1, 0) | {
        "prompt_tokens_total": 5,
        "generation_tokens_total": 1,
        "prefix_cache_queries_total": 5,
        "request_success_total.length": 1,
    }


async def test_ends_are_counted_by_their_reason(llm: LLM) -> None:
    change = Change()
    prediction = predict(6, 20)
    ids = await tokens(llm, prediction)
    await tokens(llm, replace(prediction, stop_token_ids=frozenset(ids[5:6])))
    task = asyncio.create_task(tokens(llm, predict(6, 450)))
    while not llm.stats().running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(DeadlineError):
        await tokens(llm, replace(predict(6, 450), timeout=0.02))

    def failing(known: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(EngineError):
        await tokens(llm, predict(6, 5, processors=(failing,)))
    await settled(llm)
    moved = change.now()
    assert {name: value for name, value in moved.items() if name.startswith("request_success")} == {
        "request_success_total.length": 1,
        "request_success_total.stop": 1,
        "request_success_total.cancelled": 1,
        "request_success_total.error": 2,
    }
    assert moved["e2e_request_latency_seconds_count"] == 2, "what was cut short would make answers look fast"
    assert moved["request_decode_time_seconds_count"] == 2


async def test_gauges_show_who_runs_and_waits_and_return_to_zero(
    tiny_engine: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, ...]] = []
    forward = Engine.forward

    def watched(self: Engine, batch: Any) -> torch.Tensor:
        seen.append(tuple(samples()[name] for name in GAUGES))
        return forward(self, batch)

    monkeypatch.setattr(Engine, "forward", watched)
    llm = LLM(tiny_engine(max_batch_size=2, max_model_len=128), kv_cache_bytes=2 * BYTES_OF_128_TOKENS)
    try:
        await asyncio.gather(*(tokens(llm, predict(40, 30, first=index)) for index in range(5)))
        await settled(llm)
    finally:
        llm.close()
    assert max(running for running, _, _ in seen) == 2
    assert max(waiting for _, waiting, _ in seen) == 3
    assert max(usage for _, _, usage in seen) == 10 / 16, "two requests of 69 computed tokens, of 16 blocks"
    assert all(0 < usage <= 1 for _, _, usage in seen)


async def test_a_closed_engine_leaves_no_gauge_behind(tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine())
    task = asyncio.create_task(tokens(llm, predict(40, 450)))
    while not samples()["num_requests_running"]:
        await asyncio.sleep(0)
    await asyncio.to_thread(llm.close)
    with pytest.raises(EngineError, match="stopped"):
        await task
    assert [samples()[name] for name in GAUGES] == [0, 0, 0]


async def test_a_preempted_request_counts_once_but_for_its_preemptions(tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine(max_model_len=128), kv_cache_bytes=BYTES_OF_128_TOKENS)
    change = Change()
    try:
        await asyncio.gather(*(tokens(llm, predict(40, 60, first=index)) for index in range(3)))
        await settled(llm)
    finally:
        llm.close()
    moved = dict(change.now())
    assert moved.pop("num_preemptions_total") == llm.stats().preemptions > 0
    assert moved == timed(3, 3 * 59) | {
        "prompt_tokens_total": 120,
        "generation_tokens_total": 180,
        "prefix_cache_queries_total": 120,
        "request_success_total.length": 3,
    }


class Knowing:
    """Guesses that are right, then wrong, of an answer that is known."""

    def __init__(self, answer: Sequence[int]) -> None:
        self._answer = answer

    def propose(self, requests: Any) -> None:
        for request in requests:
            right = list(self._answer[request.generated : request.generated + 2])
            wrong = (self._answer[min(request.generated + 2, len(self._answer) - 1)] + 1) % 300
            request.drafts = [*right, wrong]

    def forget(self, request: Request) -> None: ...

    def check(self, engine: Path) -> None: ...


async def test_guesses_are_counted_and_tokens_that_come_together_have_one_gap(
    llm: LLM, tiny_engine: TinyEngine
) -> None:
    """The first step gives one token, then each confirms two of three guesses and adds one: 1 + 3 + 3 + 3."""
    prediction = predict(6, 10)
    answer = await tokens(llm, prediction)
    guessing = LLM(tiny_engine(), drafter=Knowing(answer))
    change = Change()
    try:
        assert await tokens(guessing, prediction) == answer
        await settled(guessing)
    finally:
        guessing.close()
    moved = change.now()
    assert moved["generation_tokens_total"] == 10
    assert moved["spec_decode_num_drafts_total"] == 3
    assert moved["spec_decode_num_draft_tokens_total"] == 3 + 3 + 2, "no more than max_new_tokens has room for"
    assert moved["spec_decode_num_accepted_tokens_total"] == 6
    assert moved["inter_token_latency_seconds_count"] == 3


async def test_a_refused_request_counts_nowhere(tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine(max_batch_size=1), scheduling=Scheduling(max_waiting=1))
    change = Change()
    try:
        results = await asyncio.gather(*(tokens(llm, predict(6, 50)) for _ in range(6)), return_exceptions=True)
        await settled(llm)
    finally:
        llm.close()
    served = sum(isinstance(result, list) for result in results)
    assert 0 < served < 6
    assert sum(isinstance(result, QueueFullError) for result in results) == 6 - served
    moved = change.now()
    assert moved["prompt_tokens_total"] == 6 * served
    assert moved["request_success_total.length"] == served
    assert not any(name.endswith((".error", ".cancelled")) for name in moved)
