"""Several answers to one prompt, the best of several, and the JSON that tells of them."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from runtime import answers
from runtime.answers import Answer, Completion
from runtime.engine.manifest import Scheduling
from runtime.errors import DeadlineError, EngineError, QueueFullError
from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.request import Delta, FinishReason
from runtime.sampling import Logprob, SamplingParams, TokenLogprobs
from tests.conftest import TinyEngine

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def llm(tiny_engine: TinyEngine) -> Iterator[LLM]:
    llm = LLM(tiny_engine())
    yield llm
    llm.close()
    assert llm.stats().free_blocks == llm.stats().total_blocks


def several(n: int, best_of: int | None = None, new: int = 8, **sampling: Any) -> Prediction:
    params = SamplingParams(**{"temperature": 2.0, "seed": 11, **sampling})
    return Prediction(tuple(range(10, 50)), params, new, n=n, best_of=best_of or n)


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


async def idle(llm: LLM) -> None:
    """Returns once no request is left, nor a block of one; the engine's thread may be a step behind its clients."""
    async with asyncio.timeout(10):
        while (stats := llm.stats()).running or stats.waiting or stats.free_blocks < stats.total_blocks:
            await asyncio.sleep(0.005)


async def test_several_answers_differ_and_come_again_with_the_same_seed(llm: LLM) -> None:
    first, again = await llm.complete(several(5)), await llm.complete(several(5))
    assert [answer.tokens for answer in first.answers] == [answer.tokens for answer in again.answers]
    assert len({answer.tokens for answer in first.answers}) == 5
    other = await llm.complete(several(5, seed=1000))
    assert not {answer.tokens for answer in other.answers} & {answer.tokens for answer in first.answers}


async def test_the_first_of_several_is_the_answer_to_one(llm: LLM) -> None:
    (alone,) = (await llm.complete(several(1))).answers
    assert (await llm.complete(several(3))).answers[0] == alone
    assert await llm.generate(several(3)) == alone.text


async def test_greedy_answers_are_equal(llm: LLM) -> None:
    completion = await llm.complete(several(3, temperature=0.0))
    assert len(set(completion.answers)) == 1


async def test_the_best_of_several_have_the_highest_mean_log_probability(llm: LLM) -> None:
    every = (await llm.complete(several(8, logprobs=0))).answers
    ranked = sorted(every, key=lambda answer: -answer.mean_logprob)
    assert list(every) != ranked, "they come in the order of their seeds where no best is asked for"
    best = (await llm.complete(several(3, 8))).answers
    assert [answer.tokens for answer in best] == [answer.tokens for answer in ranked[:3]]


async def test_the_mean_makes_up_for_length(llm: LLM) -> None:
    """A longer answer of likely tokens is better than a short one of unlikely ones."""

    async def run(prediction: Prediction) -> AsyncGenerator[Delta]:
        short = prediction.sampling.seed == 0
        for left in range(1 if short else 3):
            told = TokenLogprobs(Logprob(7, -2.0 if short else -1.0, 1))
            reason = FinishReason.STOP if short or left == 2 else None
            yield Delta("s" if short else "l", (7,), reason, logprobs=(told,))

    completion = await answers.complete(run, several(1, 2, seed=0))
    assert [answer.text for answer in completion.answers] == ["lll"]


async def test_the_prompt_of_several_answers_counts_and_is_computed_once(llm: LLM) -> None:
    llm.reset_prefix_cache()
    counted, hits = metric("trtpack_prompt_tokens_total"), metric("trtpack_prefix_cache_hits_total")
    completion = await llm.complete(several(2, 4))
    assert completion.prompt_tokens == 40
    assert metric("trtpack_prompt_tokens_total") - counted == 40
    assert metric("trtpack_prefix_cache_hits_total") - hits == 3 * 32, "two full blocks of sixteen, for three others"


@pytest.mark.parametrize("n", [1, 3])
async def test_prompt_logprobs_come_once_for_all_answers(llm: LLM, n: int) -> None:
    prediction = several(n, prompt_logprobs=0, logprobs=1)
    completion = await llm.complete(prediction)
    assert [told.chosen.token for told in completion.prompt_logprobs] == list(prediction.prompt[1:])
    assert len(completion.json(prediction)["prompt_logprobs"]) == 40


async def test_one_that_fails_fails_all_and_frees_all(llm: LLM) -> None:
    """Each draw of the third answer's seed fails; the other two would go on for long."""
    made = llm.deltas

    def run(prediction: Prediction) -> AsyncGenerator[Delta]:
        if prediction.sampling.seed == 13:
            failing = SamplingParams(processors=(lambda known, logits: logits[:0].max(),))
            return made(replace(prediction, sampling=failing))
        return made(prediction)

    with pytest.raises(EngineError, match="could not be processed"):
        await answers.complete(run, replace(several(3, new=450), ignore_eos=True))
    await idle(llm)


async def test_a_first_one_that_fails_fails_all(llm: LLM) -> None:
    spoilt = several(3, processors=(lambda known, logits: logits[:0].max(),))
    with pytest.raises(EngineError, match="could not be processed"):
        await llm.complete(spoilt)
    await idle(llm)


async def test_a_full_queue_refuses_all_of_several(tiny_engine: TinyEngine) -> None:
    small = LLM(tiny_engine(max_batch_size=1), scheduling=Scheduling(max_waiting=1))
    try:
        with pytest.raises(QueueFullError):
            await small.complete(replace(several(6, new=100), ignore_eos=True))
        await idle(small)
        assert len((await small.complete(several(1))).answers) == 1
    finally:
        small.close()


async def test_a_timeout_is_that_of_all_answers_together(tiny_engine: TinyEngine) -> None:
    """The others wait for the first one's first token; with one place in the batch they then wait for its end."""
    small = LLM(tiny_engine(max_batch_size=1))
    try:
        with pytest.raises(DeadlineError, match="timeout"):
            await small.complete(replace(several(4, new=450), ignore_eos=True, timeout=0.4))
        await idle(small)
    finally:
        small.close()


async def test_what_is_left_of_a_timeout_goes_to_those_that_begin_late() -> None:
    """The first answer takes a while to begin."""
    given: list[float] = []

    async def run(prediction: Prediction) -> AsyncGenerator[Delta]:
        assert prediction.timeout is not None
        given.append(prediction.timeout)
        await asyncio.sleep(0.05)
        yield Delta("a", (7,), FinishReason.STOP)

    await answers.complete(run, replace(several(3), timeout=10.0))
    assert 9.9 < given[0] <= 10
    assert max(given[1:]) <= 9.96
    given.clear()
    await answers.complete(run, replace(several(3), timeout=0.01))
    assert all(timeout > 0 for timeout in given), "0 would be none"


async def test_cancelling_before_the_first_token_frees_all(llm: LLM) -> None:
    task = asyncio.create_task(llm.complete(several(4, new=400)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await idle(llm)


async def test_stop_strings_end_each_answer_for_itself(llm: LLM) -> None:
    texts = [answer.text for answer in (await llm.complete(several(4, new=30))).answers]
    stop = texts[2][5:7]
    cut = (await llm.complete(replace(several(4, new=30), stop=(stop,)))).answers
    assert [answer.text for answer in cut] == [text.partition(stop)[0] for text in texts]
    assert cut[2].stop == stop


def told(token: int, *top: int) -> TokenLogprobs:
    return TokenLogprobs(Logprob(token, -0.5, 2), tuple(Logprob(near, -0.25, 1) for near in top))


ONE = Answer("a", (5,), FinishReason.STOP, logprobs=(told(5, 6),))
TWO = Answer("b", (7,), FinishReason.LENGTH, logprobs=(told(7),))
JSON_5 = {"token": 5, "logprob": -0.5, "rank": 2, "top": [{"token": 6, "logprob": -0.25}]}
JSON_7 = {"token": 7, "logprob": -0.5, "rank": 2, "top": []}


@pytest.mark.parametrize(
    ("completion", "prediction", "expected"),
    [
        (Completion((ONE,), 2), several(1), {"output": "a"}),
        (Completion((ONE,), 2), several(1, 3), {"output": "a"}),
        (Completion((ONE, TWO), 2), several(2), {"outputs": ["a", "b"]}),
        (Completion((ONE,), 2), several(1, logprobs=1), {"output": "a", "logprobs": [JSON_5]}),
        (
            Completion((ONE, TWO), 2),
            several(2, logprobs=1),
            {"outputs": ["a", "b"], "logprobs": [[JSON_5], [JSON_7]]},
        ),
        (
            Completion((ONE,), 2, (told(7),)),
            several(1, prompt_logprobs=0),
            {"output": "a", "prompt_logprobs": [None, JSON_7]},
        ),
        (Completion((ONE,), 1), several(1, prompt_logprobs=0), {"output": "a", "prompt_logprobs": [None]}),
    ],
)
def test_json_tells_what_was_asked_for(
    completion: Completion, prediction: Prediction, expected: dict[str, Any]
) -> None:
    assert completion.json(prediction) == expected
