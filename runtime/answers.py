"""Whole answers: one, several to one prompt, or the best of several."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, TypeVar

from runtime.prediction import Prediction
from runtime.request import Delta, FinishReason
from runtime.sampling import TokenLogprobs

T = TypeVar("T")
Run = Callable[[Prediction], AsyncGenerator[Delta]]


@dataclass(frozen=True)
class Answer:
    """One whole answer; `stop` is the stop string or token that ended it."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    stop: str | int | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()

    @property
    def mean_logprob(self) -> float:
        """Of its tokens, where log-probabilities were asked for."""
        return sum(told.chosen.logprob for told in self.logprobs) / max(len(self.logprobs), 1)


@dataclass(frozen=True)
class Completion:
    """The answers to one prediction, best first where a best was asked for."""

    answers: tuple[Answer, ...]
    prompt_tokens: int
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()

    def json(self, prediction: Prediction) -> dict[str, Any]:
        """What `:predict` gives: `output`, or `outputs` where several were asked for; and log-probabilities."""
        told: dict[str, Any] = {"output": self.answers[0].text}
        if prediction.n > 1:
            told = {"outputs": [answer.text for answer in self.answers]}
        if prediction.sampling.logprobs is not None:
            each = [[_told(token) for token in answer.logprobs] for answer in self.answers]
            told["logprobs"] = each if prediction.n > 1 else each[0]
        if prediction.sampling.prompt_logprobs is not None:
            told["prompt_logprobs"] = [None, *map(_told, self.prompt_logprobs)]
        return told


async def complete(run: Run, prediction: Prediction) -> Completion:
    """All answers of a prediction. Raises what `run` raises; then, or when cancelled, none of them goes on."""
    ranked = prediction.best_of > prediction.n
    if ranked and prediction.sampling.logprobs is None:
        asked = replace(prediction, sampling=replace(prediction.sampling, logprobs=0))
    else:
        asked = prediction
    prompt: list[TokenLogprobs] = []
    begun, since = asyncio.Event(), monotonic()

    async def answer(index: int) -> Answer:
        if index:
            await begun.wait()  # until then the prompt is being computed, and not there to be shared
        try:
            async with aclosing(run(asked.sibling(index).later(since))) as deltas:
                return await _whole(deltas, prompt if index == 0 else [], begun)
        finally:
            begun.set()

    answers = await together(answer(index) for index in range(prediction.best_of))
    if ranked:
        answers.sort(key=lambda answer: -answer.mean_logprob)
    return Completion(tuple(answers[: prediction.n]), len(prediction.prompt), tuple(prompt))


async def together(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all. Raises what the first to fail raises; then, or when cancelled, none of them goes on."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _whole(deltas: AsyncGenerator[Delta], prompt: list[TokenLogprobs], begun: asyncio.Event) -> Answer:
    text, tokens, logprobs = "", list[int](), list[TokenLogprobs]()
    async for delta in deltas:
        begun.set()
        prompt += delta.prompt_logprobs
        text += delta.text
        tokens += delta.tokens
        logprobs += delta.logprobs
        if delta.finish_reason:
            return Answer(text, tuple(tokens), delta.finish_reason, delta.stop, tuple(logprobs))
    raise AssertionError("the last delta has a finish reason")


def _told(token: TokenLogprobs) -> dict[str, Any]:
    chosen = token.chosen
    return {
        "token": chosen.token,
        "logprob": chosen.logprob,
        "rank": chosen.rank,
        "top": [{"token": near.token, "logprob": near.logprob} for near in token.top],
    }
