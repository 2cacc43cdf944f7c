"""The engine's own thread: takes requests in, runs one step after another, hands tokens out."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from runtime import metrics
from runtime.batch import Batch
from runtime.errors import DeadlineError, EngineError
from runtime.outcome import Outcome, outcomes
from runtime.request import Delta, FinishReason, Request
from runtime.scheduler import Chunk, Scheduler
from runtime.speculation import Drafter

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What computes a step: see runtime.engine.engine.Engine."""

    device: torch.device

    def forward(self, batch: Batch) -> Tensor: ...


E = TypeVar("E", bound=Engine)


class EngineLoop(Generic[E]):
    """In-flight batching: requests join and leave the batch at every step, and no client is waited for.

    Only the loop's thread touches the scheduler; other threads leave commands in a queue.
    """

    engine: E
    scheduler: Scheduler

    def __init__(self, load: Callable[[], tuple[E, Scheduler, Drafter | None]]) -> None:
        """Calls `load` on the loop's thread, and raises what it raises.

        OpenMP gives every thread that computes workers of its own; of more workers than cores it lets all sleep after
        each operation. With the engine loaded on another thread, a step of SmolLM2 took 60 ms instead of 43 on 2 cores.
        """
        self._drafter: Drafter | None = None
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._closing = self._draining = False
        self._gate = threading.Lock()
        self._reported_preemptions = 0
        loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(load, loaded), name="trtpack-engine", daemon=True)
        self._thread.start()
        loaded.result()

    @property
    def alive(self) -> bool:
        """Whether requests are still taken."""
        return not (self._closing or self._draining) and self._thread.is_alive()

    def submit(self, request: Request) -> None:
        """Queues a request; its outcome, refusal included, comes through `request.deliver`."""
        with self._gate:  # nothing is queued behind the thread's last look
            if self.alive:
                self._commands.put(lambda: self._add(request))
                return
        request.deliver(_failure(EngineError("the engine has stopped")))

    def cancel(self, request: Request) -> None:
        """Frees the request's blocks before the next step; one that has ended is left alone."""
        self._commands.put(lambda: self._drop(request))

    def reset_prefix_cache(self) -> None:
        """Before the next step: see Scheduler.reset_prefix_cache."""
        self._commands.put(self.scheduler.reset_prefix_cache)

    def drain(self) -> None:
        """Takes no more requests, lets those that are here end, then ends the thread; returns once it has."""
        with self._gate:
            self._draining = True
        self._commands.put(lambda: None)
        self._thread.join()

    def close(self) -> None:
        """Ends the thread after its current step; every request still here is told so."""
        self._stop()
        self._thread.join()

    def _stop(self) -> None:
        with self._gate:
            self._closing = True
        self._commands.put(lambda: None)

    def _run(self, load: Callable[[], tuple[E, Scheduler, Drafter | None]], loaded: "Future[None]") -> None:
        try:
            self.engine, self.scheduler, self._drafter = load()
        except BaseException as error:  # a sys.exit() too: whoever waits must not wait for ever
            loaded.set_exception(error)
            return
        loaded.set_result(None)
        try:
            self._leave_default_stream()
            while not (self._closing or (self._draining and self.scheduler.idle and self._commands.empty())):
                self._report()
                self._take_commands()
                self._give_up_late()
                chunks = self.scheduler.schedule()
                self._report()
                if chunks:
                    self._step(chunks)
        except Exception:
            log.exception("The engine's thread failed")
        self._stop()
        self._take_commands()
        for request in [*self.scheduler.running, *self.scheduler.waiting]:
            self._end(request, _failure(EngineError("the engine has stopped")))
        self._report()

    def _leave_default_stream(self) -> None:
        """On that one every enqueue of TensorRT may wait for the whole GPU (Python API, execute_async_v3)."""
        if (device := self.engine.device).type == "cuda":
            torch.cuda.synchronize(device)  # the weights have arrived
            torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]

    def _take_commands(self) -> None:
        wait = self.scheduler.idle and not self._closing
        with suppress(Empty):
            while True:
                self._commands.get(block=wait)()
                wait = False  # back to the caller first, so that what it reports is up to date

    def _step(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            if chunk.request.started is None:
                metrics.observe_start(chunk.request)
        try:
            batch = Batch.of(chunks, self.scheduler.pool.block_size, self.engine.device)
            results = outcomes(self.engine.forward(batch), batch)
        except Exception as error:
            log.exception("A step of %d requests failed", len(chunks))
            for chunk in chunks:
                self._end(chunk.request, _failure(EngineError(f"the step of this request failed: {error}")))
            return
        deltas = [(result.chunk.request, self._advance(result)) for result in results]
        self.scheduler.computed(chunks)
        for request, delta in deltas:
            if delta.finish_reason:
                self._end(request, delta)
            elif delta.tokens or delta.prompt_logprobs:
                self._deliver(request, delta)
        self._draft(results)

    def _advance(self, result: Outcome) -> Delta:
        """Gives a request its tokens; what raises on the way fails that request alone."""
        request, before = result.chunk.request, result.chunk.request.last_token
        try:
            delta = request.advance(result.choices, result.prompt_logprobs)
        except Exception as error:
            log.exception("The tokens of a request could not be taken")
            delta = _failure(EngineError(f"the tokens of this request could not be taken: {error}"))
        metrics.observe_tokens(request, before, len(delta.tokens))
        if drafts := result.chunk.drafts:
            metrics.observe_drafts(drafts, len(result.choices) - 1)
        return delta

    def _draft(self, results: list[Outcome]) -> None:
        """Guesses for the next step. A guide's constraints are not worth guessing around."""
        for result in results:
            result.chunk.request.drafts = []
        if self._drafter is None:
            return
        going = [result.chunk.request for result in results if result.chunk.request.missing == 1]
        try:
            self._drafter.propose([r for r in going if r in self.scheduler.running and r.guide is None])
        except Exception:
            log.exception("Guessing ahead failed; going on without")
            self._drafter = None

    def _give_up_late(self) -> None:
        now = monotonic()
        for request in self.scheduler.expired(now):
            seconds = now - request.arrival
            self._end(request, _failure(DeadlineError(f"the request's timeout passed after {seconds:.1f} s")))

    def _add(self, request: Request) -> None:
        try:
            self.scheduler.add(request)
        except Exception as error:
            self._deliver(request, _failure(error))
            return
        if request.counted:
            metrics.PROMPT_TOKENS.inc(len(request.prompt))

    def _drop(self, request: Request) -> None:
        if request in self.scheduler.running or request in self.scheduler.waiting:
            self._end(request, Delta("", (), FinishReason.CANCELLED))

    def _end(self, request: Request, delta: Delta) -> None:
        self._forget(request)
        metrics.observe_end(request, delta.finish_reason)
        self._deliver(request, delta)

    def _forget(self, request: Request) -> None:
        self.scheduler.remove(request)
        if self._drafter:
            self._drafter.forget(request)

    def _deliver(self, request: Request, delta: Delta) -> None:
        try:
            request.deliver(delta)
        except Exception:
            # The client's event loop is gone: nobody is left to tell.
            log.debug("A client left before its tokens did", exc_info=True)
            self._forget(request)

    def _report(self) -> None:
        metrics.RUNNING.set(len(self.scheduler.running))
        metrics.WAITING.set(len(self.scheduler.waiting))
        metrics.KV_USAGE.set(self.scheduler.pool.usage)
        metrics.PREEMPTIONS.inc(self.scheduler.preemptions - self._reported_preemptions)
        self._reported_preemptions = self.scheduler.preemptions


def _failure(error: Exception) -> Delta:
    return Delta("", (), FinishReason.ERROR, error)
