"""The face that a model.py imports: an engine folder that answers prompts, many at a time."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime import inputs as wire
from runtime.block_pool import BlockPool
from runtime.engine.engine import BLOCK_SIZE, Engine
from runtime.errors import InputError
from runtime.loop import EngineLoop
from runtime.request import Delta, Request
from runtime.sampling import SamplingParams
from runtime.scheduler import Limits, Scheduler
from runtime.text import Detokenizer
from runtime.tokenizer import Tokenizer

DEFAULT_MAX_NEW_TOKENS = 512


@dataclass(frozen=True)
class Prediction:
    """A checked request: ready to run, any number of times."""

    prompt: tuple[int, ...]
    sampling: SamplingParams
    max_new_tokens: int
    stop: tuple[str, ...]
    streaming: bool
    streaming_interval: int


@dataclass(frozen=True)
class Stats:
    """Requests in the batch and in the queue, KV cache blocks, and preemptions since the start."""

    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    preemptions: int


class LLM:
    """An engine in memory with its tokenizer and its batching loop; safe to use from many tasks at once."""

    def __init__(
        self,
        engine: str | Path,
        *,
        device: str | None = None,
        kv_cache_bytes: int | None = None,
        prefill_chunk: int = 512,
        max_waiting: int = 1024,
    ) -> None:
        """Loads an engine folder; the device is a CUDA GPU where there is one, else the CPU.

        `kv_cache_bytes` None takes half of a CPU's free memory or nine tenths of a GPU's; `prefill_chunk` is
        the most prompt tokens a step computes while other requests decode; beyond `max_waiting` queued
        requests one more is refused. Raises EngineError.
        """
        folder = Path(engine)
        self._engine = Engine(folder, device=device, kv_cache_bytes=kv_cache_bytes)
        self._manifest = self._engine.manifest
        given = self._manifest.limits
        self._tokenizer = Tokenizer(folder / "tokenizer", given.max_model_len)
        limits = Limits(given.max_num_tokens, given.max_batch_size, prefill_chunk, max_waiting)
        self._scheduler = Scheduler(limits, BlockPool(self._engine.num_blocks, BLOCK_SIZE))
        self._loop = EngineLoop(self._engine, self._scheduler)

    @property
    def healthy(self) -> bool:
        """Whether the engine's thread is at work; once it has stopped, it stays so."""
        return self._loop.alive

    def request(self, inputs: Any) -> Prediction:
        """Checks what a client sent: see runtime.inputs.PredictInput. Raises InputError."""
        given = wire.parse(inputs)
        if given.prompt is not None:
            prompt = self._tokenizer.encode(given.prompt)
        else:
            prompt = self._tokenizer.chat([message.model_dump() for message in given.messages or []])
        if not prompt:
            raise InputError("prompt: it is empty; send at least one token")
        default = self._manifest.generation

        def chosen(value: Any, otherwise: Any) -> Any:
            return otherwise if value is None else value

        return Prediction(
            prompt=tuple(prompt),
            sampling=SamplingParams(
                temperature=chosen(given.temperature, default.temperature),
                top_k=chosen(given.top_k, default.top_k),
                top_p=chosen(given.top_p, default.top_p),
                seed=chosen(given.seed, random.getrandbits(64)),
            ),
            max_new_tokens=self._room(len(prompt), given.max_new_tokens),
            stop=tuple(given.stop),
            streaming=given.streaming,
            streaming_interval=given.streaming_interval,
        )

    async def stream(self, prediction: Prediction) -> AsyncGenerator[str]:
        """Text as it is generated, about `streaming_interval` tokens a piece; leaving early frees its place.

        Raises QueueFullError or EngineError.
        """
        text, count = "", 0
        async with aclosing(self.deltas(prediction)) as deltas:
            async for delta in deltas:
                text, count = text + delta.text, count + len(delta.tokens)
                if text and (count >= prediction.streaming_interval or delta.finish_reason):
                    yield text
                    text, count = "", 0

    async def generate(self, prediction: Prediction) -> str:
        """The whole text. Raises QueueFullError or EngineError."""
        async with aclosing(self.deltas(prediction)) as deltas:
            return "".join([delta.text async for delta in deltas])

    async def deltas(self, prediction: Prediction) -> AsyncGenerator[Delta]:
        """What each step adds, the last one with its finish reason. Raises QueueFullError or EngineError."""
        arrived: asyncio.Queue[Delta] = asyncio.Queue()
        event_loop = asyncio.get_running_loop()

        def deliver(delta: Delta) -> None:
            event_loop.call_soon_threadsafe(arrived.put_nowait, delta)

        request = Request(
            prompt=prediction.prompt,
            sampling=prediction.sampling,
            max_new_tokens=prediction.max_new_tokens,
            deliver=deliver,
            detokenizer=Detokenizer(self._tokenizer, prediction.stop),
            eos_token_ids=frozenset(self._manifest.generation.eos_token_ids),
        )
        self._loop.submit(request)
        ended = False
        try:
            while not ended:
                delta = await arrived.get()
                ended = delta.finish_reason is not None
                if delta.error:
                    raise delta.error
                yield delta
        finally:
            if not ended:
                self._loop.cancel(request)

    def stats(self) -> Stats:
        """Where the engine stands now."""
        scheduler = self._scheduler
        return Stats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            free_blocks=scheduler.pool.num_free,
            total_blocks=scheduler.pool.num_blocks,
            preemptions=scheduler.preemptions,
        )

    def close(self) -> None:
        """Ends the engine's thread; requests still running fail with an EngineError."""
        self._loop.close()

    def _room(self, prompt: int, wanted: int | None) -> int:
        limit = self._manifest.limits.max_model_len
        if prompt >= limit:
            raise InputError(f"prompt: it has {prompt} tokens; max_model_len is {limit}, one of them for the answer")
        if wanted is None:
            return min(DEFAULT_MAX_NEW_TOKENS, limit - prompt)
        if prompt + wanted > limit:
            raise InputError(
                f"max_new_tokens: {prompt} prompt tokens and {wanted} new ones are more than max_model_len {limit}; "
                f"ask for at most {limit - prompt}"
            )
        return wanted
