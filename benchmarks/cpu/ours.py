"""Our side: the whole runtime, from requests in asyncio tasks to detokenised text."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from benchmarks.cpu.answers import Answers
from benchmarks.cpu.smollm2 import Prompt
from runtime.engine.manifest import Scheduling
from runtime.llm import LLM
from runtime.prediction import Prediction

# Room for 32 requests of 500 tokens, or 8 of MAX_MODEL_LEN, in float32.
_KV_CACHE_BYTES = 2**30


class Ours:
    """Prompts are not shared between rounds: the peers keep none either."""

    def __init__(self, engine: Path) -> None:
        self._llm = LLM(
            engine, device="cpu", kv_cache_bytes=_KV_CACHE_BYTES, scheduling=Scheduling(prefix_caching=False)
        )
        self.answer([(1, 2, 3)] * 8, 4)

    def answer(self, prompts: Sequence[Prompt], new_tokens: int) -> Answers:
        """Greedy answers of exactly `new_tokens` tokens, all requests at once."""
        wanted = {"prompt": "any", "max_new_tokens": new_tokens, "temperature": 0.0, "ignore_eos": True}
        prediction = self._llm.request(wanted)
        return asyncio.run(self._answer([replace(prediction, prompt=prompt) for prompt in prompts]))

    async def _answer(self, predictions: Sequence[Prediction]) -> Answers:
        started = perf_counter()
        each = await asyncio.gather(*(self._one(prediction, started) for prediction in predictions))
        prompts = [prediction.prompt for prediction in predictions]
        return Answers.of(prompts, [arrivals for arrivals, _ in each], [tokens for _, tokens in each])

    async def _one(self, prediction: Prediction, started: float) -> tuple[list[float], list[int]]:
        arrivals, tokens = list[float](), list[int]()
        async with aclosing(self._llm.deltas(prediction)) as deltas:
            async for delta in deltas:
                tokens += delta.tokens
                arrivals += [perf_counter() - started] * len(delta.tokens)
        return arrivals, tokens

    def close(self) -> None:
        self._llm.close()
