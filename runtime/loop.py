"""The engine's own thread: takes requests in, runs one step after another, hands tokens out."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Protocol

import torch
from torch import Tensor

from runtime import metrics
from runtime.batch import Batch
from runtime.errors import EngineError
from runtime.request import Delta, FinishReason, Request
from runtime.sampling import Draw, sample
from runtime.scheduler import Chunk, Scheduler

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What computes a step: see runtime.engine.engine.Engine."""

    device: torch.device

    def forward(self, batch: Batch) -> Tensor: ...


class EngineLoop:
    """In-flight batching: requests join and leave the batch at every step, and no client is waited for.

    Only the loop's thread touches the scheduler; other threads leave commands in a queue.
    """

    def __init__(self, engine: Engine, scheduler: Scheduler) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._closing = False
        self._gate = threading.Lock()
        self._reported_preemptions = 0
        self._thread = threading.Thread(target=self._run, name="trtpack-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are still taken."""
        return not self._closing and self._thread.is_alive()

    def submit(self, request: Request) -> None:
        """Queues a request; its outcome, refusal included, comes through `request.deliver`."""
        with self._gate:  # nothing is queued behind the thread's last look
            if not self._closing:
                self._commands.put(lambda: self._add(request))
                return
        request.deliver(_failure(EngineError("the engine has stopped")))

    def cancel(self, request: Request) -> None:
        """Frees the request's blocks before the next step; one that has ended is left alone."""
        self._commands.put(lambda: self._drop(request))

    def close(self) -> None:
        """Ends the thread after its current step; every request still here is told so."""
        self._stop()
        self._thread.join()

    def _stop(self) -> None:
        with self._gate:
            self._closing = True
        self._commands.put(lambda: None)

    def _run(self) -> None:
        try:
            self._leave_default_stream()
            while not self._closing:
                self._report()
                self._take_commands()
                chunks = self._scheduler.schedule()
                self._report()
                if chunks:
                    self._step(chunks)
        except Exception:
            log.exception("The engine's thread failed")
        self._stop()
        self._take_commands()
        for request in [*self._scheduler.running, *self._scheduler.waiting]:
            self._end(request, _failure(EngineError("the engine has stopped")))

    def _leave_default_stream(self) -> None:
        """On that one every enqueue of TensorRT may wait for the whole GPU (Python API, execute_async_v3)."""
        if (device := self._engine.device).type == "cuda":
            torch.cuda.synchronize(device)  # the weights have arrived
            torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]

    def _take_commands(self) -> None:
        wait = self._scheduler.idle and not self._closing
        with suppress(Empty):
            while True:
                self._commands.get(block=wait)()
                wait = False  # back to the caller first, so that what it reports is up to date

    def _step(self, chunks: list[Chunk]) -> None:
        try:
            batch = Batch.of(chunks, self._scheduler.pool.block_size, self._engine.device)
            logits = self._engine.forward(batch)
            draws = [Draw(chunk.request.sampling, len(chunk.request.tokens)) for chunk in batch.completing]
            tokens = sample(logits, draws) if draws else []
        except Exception as error:
            log.exception("A step of %d requests failed", len(chunks))
            for chunk in chunks:
                self._end(chunk.request, _failure(EngineError(f"the step of this request failed: {error}")))
            return
        self._scheduler.computed(chunks)
        for chunk, token in zip(batch.completing, tokens, strict=True):
            self._advance(chunk.request, token)

    def _advance(self, request: Request, token: int) -> None:
        first = request.first_token is None
        try:
            delta = request.append(token)
        except Exception as error:
            log.exception("Token %d cannot be decoded", token)
            delta = _failure(EngineError(f"token {token} cannot be decoded: {error}"))
        if first:
            metrics.TTFT.observe(monotonic() - request.arrival)
        metrics.GENERATION_TOKENS.inc()
        if delta.finish_reason:
            self._end(request, delta)
        else:
            self._deliver(request, delta)

    def _add(self, request: Request) -> None:
        try:
            self._scheduler.add(request)
        except Exception as error:
            self._deliver(request, _failure(error))
            return
        metrics.PROMPT_TOKENS.inc(len(request.prompt))

    def _drop(self, request: Request) -> None:
        if request in self._scheduler.running or request in self._scheduler.waiting:
            self._end(request, Delta("", (), FinishReason.CANCELLED))

    def _end(self, request: Request, delta: Delta) -> None:
        self._scheduler.remove(request)
        if delta.finish_reason:
            metrics.FINISHED.labels(delta.finish_reason.value).inc()
        metrics.E2E.observe(monotonic() - request.arrival)
        self._deliver(request, delta)

    def _deliver(self, request: Request, delta: Delta) -> None:
        try:
            request.deliver(delta)
        except Exception:
            # The client's event loop is gone: nobody is left to tell.
            log.debug("A client left before its tokens did", exc_info=True)
            self._scheduler.remove(request)

    def _report(self) -> None:
        metrics.RUNNING.set(len(self._scheduler.running))
        metrics.WAITING.set(len(self._scheduler.waiting))
        metrics.KV_USAGE.set(self._scheduler.pool.usage)
        metrics.PREEMPTIONS.inc(self._scheduler.preemptions - self._reported_preemptions)
        self._reported_preemptions = self._scheduler.preemptions


def _failure(error: Exception) -> Delta:
    return Delta("", (), FinishReason.ERROR, error)
