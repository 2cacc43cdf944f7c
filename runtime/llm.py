"""The face that a model.py imports: an engine that answers prompts, many at a time."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from runtime import answers, beam, speculation
from runtime import inputs as wire
from runtime.answers import Completion
from runtime.block_pool import BlockPool
from runtime.engine.engine import BLOCK_SIZE, Engine
from runtime.engine.manifest import Scheduling
from runtime.guide import Guides
from runtime.loop import EngineLoop
from runtime.prediction import Prediction, checked
from runtime.registry import source
from runtime.request import Delta, Request
from runtime.scheduler import Scheduler
from runtime.speculation import Drafter
from runtime.text import Detokenizer
from runtime.tokenizer import Tokenizer


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
        scheduling: Scheduling | None = None,
        drafter: Drafter | Literal["own"] | None = "own",
        adapters: Mapping[str, str | Path] | None = None,
    ) -> None:
        """Loads an engine: a folder, or oci://… and hf://…, which are pulled before; see runtime.registry.source.

        The device is a CUDA GPU where there is one, else the CPU.
        `kv_cache_bytes` None takes half of a CPU's free memory or nine tenths of a GPU's; `scheduling` None is the
        engine's own; `drafter` guesses ahead, see runtime.speculation: "own" is what the engine was compiled with;
        `adapters` are folders of LoRA adapters by the name that a request chooses one by, beside those in the engine's
        folder. Raises EngineError.
        """
        folder = source.located(engine, device)
        more = {name: Path(path) for name, path in (adapters or {}).items()}

        def load() -> tuple[Engine, Scheduler, Drafter | None]:
            # Before the engine, which leaves little of a GPU's memory.
            guessing = speculation.own(folder, device) if drafter == "own" else drafter
            loaded = Engine(folder, device=device, kv_cache_bytes=kv_cache_bytes, adapters=more)
            if guessing:
                guessing.check(folder)
            pool = BlockPool(loaded.num_blocks, BLOCK_SIZE)
            return loaded, Scheduler(loaded.manifest.limits, scheduling or loaded.manifest.scheduling, pool), guessing

        self._loop = EngineLoop(load)
        self._engine = self._loop.engine
        self._manifest = self._engine.manifest
        self._tokenizer_json = folder / "tokenizer" / "tokenizer.json"
        self._tokenizer = Tokenizer(folder / "tokenizer", self._manifest.limits.max_model_len)

    @property
    def healthy(self) -> bool:
        """Whether the engine's thread is at work; once it has stopped, it stays so."""
        return self._loop.alive

    def request(self, inputs: Any) -> Prediction:
        """Checks what a client sent: see runtime.inputs.PredictInput. Raises InputError."""
        prediction = checked(wire.parse(inputs), self._tokenizer, self._manifest)
        self._engine.adapters.check(prediction.adapter)
        if prediction.grammar:
            self._guides.guide(prediction.grammar)
        return prediction

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
        """The whole text, of several answers the first. Raises QueueFullError or EngineError."""
        return (await self.complete(prediction)).answers[0].text

    async def complete(self, prediction: Prediction) -> Completion:
        """Every answer that was asked for, whole. Raises QueueFullError or EngineError."""
        if prediction.beam_width:
            ends = prediction.stop_token_ids | (frozenset() if prediction.ignore_eos else self._eos)
            decode = partial(self._tokenizer.decode, special_tokens=not prediction.skip_special_tokens)
            return await beam.search(self.deltas, prediction, ends, decode)
        return await answers.complete(self.deltas, prediction)

    async def deltas(self, prediction: Prediction) -> AsyncGenerator[Delta]:
        """What each step adds, the last one with its finish reason. Raises QueueFullError or EngineError."""
        arrived: asyncio.Queue[Delta] = asyncio.Queue()
        event_loop = asyncio.get_running_loop()

        def deliver(delta: Delta) -> None:
            event_loop.call_soon_threadsafe(arrived.put_nowait, delta)

        request = self._request(prediction, deliver)
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
        scheduler = self._loop.scheduler
        return Stats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            free_blocks=scheduler.pool.num_free,
            total_blocks=scheduler.pool.num_blocks,
            preemptions=scheduler.preemptions,
        )

    def reset_prefix_cache(self) -> None:
        """Nothing computed until now is shared with requests to come."""
        self._loop.reset_prefix_cache()

    def drain(self) -> None:
        """Refuses new requests, waits for those that are here, and ends the engine's thread."""
        self._loop.drain()

    def close(self) -> None:
        """Ends the engine's thread; requests still running fail with an EngineError."""
        self._loop.close()

    @cached_property
    def _guides(self) -> Guides:
        return Guides(self._tokenizer_json, self._manifest.generation.eos_token_ids)

    @cached_property
    def _eos(self) -> frozenset[int]:
        return frozenset(self._manifest.generation.eos_token_ids)

    def _request(self, given: Prediction, deliver: Callable[[Delta], None]) -> Request:
        self._engine.adapters.check(given.adapter)
        decode = partial(self._tokenizer.decode, special_tokens=not given.skip_special_tokens)
        return Request(
            prompt=given.prompt,
            sampling=given.sampling,
            max_new_tokens=given.max_new_tokens,
            deliver=deliver,
            detokenizer=Detokenizer(decode, given.stop, include_stop=given.include_stop, prompt=given.prompt),
            eos_token_ids=self._eos,
            stop_token_ids=given.stop_token_ids,
            ignore_eos=given.ignore_eos,
            priority=given.priority,
            salt=given.cache_salt,
            adapter=given.adapter,
            guide=self._guides.guide(given.grammar) if given.grammar else None,
            counted=given.counted,
            deadline=monotonic() + given.timeout if given.timeout else None,
        )
