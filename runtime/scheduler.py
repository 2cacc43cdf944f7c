"""Which tokens of which requests the next step computes. Plain Python, no tensor.

There is no prefill phase and no decode phase: a request is `computed` tokens chasing its known ones, and a
step hands out a token budget, to running requests first and then to waiting ones (as vLLM's V1 scheduler).
"""

from collections import deque
from dataclasses import dataclass

from runtime.block_pool import BlockPool
from runtime.errors import QueueFullError
from runtime.request import Request


@dataclass(frozen=True)
class Chunk:
    """`count` tokens of a request, from position `start`."""

    request: Request
    start: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def completes(self) -> bool:
        """Whether this chunk reaches the last known token, so that the next one can be sampled."""
        return self.end == len(self.request.tokens)


@dataclass(frozen=True)
class Limits:
    """Tokens a step, requests a step, tokens of prefill a step while other requests decode, requests waiting."""

    max_num_tokens: int
    max_batch_size: int
    prefill_chunk: int
    max_waiting: int


class Scheduler:
    """Admission in order of arrival; when blocks run out, the newest running request is preempted.

    A preempted request gives all its blocks back, keeps the tokens it has generated, goes to the front of
    the queue and is computed again. The oldest request always advances, so every request ends.
    """

    def __init__(self, limits: Limits, pool: BlockPool) -> None:
        self.limits = limits
        self.pool = pool
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.preemptions = 0

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    def add(self, request: Request) -> None:
        """Queues a request. Raises QueueFullError; the caller has checked that the pool can hold it alone."""
        if len(self.waiting) >= self.limits.max_waiting:
            raise QueueFullError(f"{len(self.waiting)} requests are waiting already; try again later")
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forgets a request at any stage, finished or not, and frees its blocks; an unknown one is ignored."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._release(request)

    def schedule(self) -> list[Chunk]:
        """The next step: at most `max_num_tokens` tokens in all, at least one when any request is queued."""
        chunks: list[Chunk] = []
        budget = _Budget(self.limits.max_num_tokens)
        preemptions = self.preemptions
        # One token to compute is a decode; while any runs, long prefills share the step with it politely.
        prefill = _Budget(self.limits.prefill_chunk if any(r.missing == 1 for r in self.running) else budget.left)
        for request in list(self.running):
            if request in self.running and (chunk := self._continue(request, budget, prefill)):
                chunks.append(chunk)
        while self.waiting and self.preemptions == preemptions and len(self.running) < self.limits.max_batch_size:
            chunk = self._admit(self.waiting[0], budget, prefill)
            if chunk is None:
                break
            chunks.append(chunk)
        return chunks

    def computed(self, chunks: list[Chunk]) -> None:
        """Records that a step's tokens have their KV in the cache."""
        for chunk in chunks:
            chunk.request.computed = chunk.end

    def _continue(self, request: Request, budget: "_Budget", prefill: "_Budget") -> Chunk | None:
        count = _share(request, budget, prefill)
        if not count:
            return None
        while not self._grow(request, count):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is request:
                return None
        return _spend(request, count, budget, prefill)

    def _admit(self, request: Request, budget: "_Budget", prefill: "_Budget") -> Chunk | None:
        count = _share(request, budget, prefill)
        if not count or not self._grow(request, count):
            return None
        self.waiting.popleft()
        self.running.append(request)
        return _spend(request, count, budget, prefill)

    def _grow(self, request: Request, count: int) -> bool:
        wanted = self.pool.blocks_for(request.computed + count) - len(request.blocks)
        blocks = self.pool.allocate(max(wanted, 0))
        if blocks is None:
            return False
        request.blocks += blocks
        return True

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._release(request)
        self.waiting.appendleft(request)
        self.preemptions += 1

    def _release(self, request: Request) -> None:
        self.pool.free(request.blocks)
        request.blocks = []
        request.computed = 0


@dataclass
class _Budget:
    left: int


def _share(request: Request, budget: _Budget, prefill: _Budget) -> int:
    count = min(request.missing, budget.left)
    return count if request.missing == 1 else min(count, prefill.left)


def _spend(request: Request, count: int, budget: _Budget, prefill: _Budget) -> Chunk:
    budget.left -= count
    prefill.left -= count if request.missing > 1 else 0
    return Chunk(request, request.computed, count)
