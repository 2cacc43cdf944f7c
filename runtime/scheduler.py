"""Which tokens of which requests the next step computes. Plain Python, no tensor.

There is no prefill phase and no decode phase: a request is `computed` tokens chasing its known ones, and a
step hands out a token budget, to running requests first and then to waiting ones (as vLLM's V1 scheduler).
"""

from bisect import insort_left, insort_right
from collections.abc import Sequence
from dataclasses import dataclass

from runtime import prefix
from runtime.block_pool import BlockPool
from runtime.engine.manifest import Limits, Scheduling
from runtime.errors import InputError, QueueFullError
from runtime.request import Request

# Rows of logits that one prompt's log-probabilities may take in a step: each is a whole vocabulary of float32.
_PROMPT_LOGPROBS = 128


@dataclass(frozen=True)
class Chunk:
    """`count` tokens of a request, from position `start`; `drafts` of them are guesses after the known tokens."""

    request: Request
    start: int
    count: int
    drafts: int = 0

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def completes(self) -> bool:
        """Whether this chunk reaches the last known token, so that the next one can be sampled."""
        return self.end - self.drafts == len(self.request.tokens)

    @property
    def wanted(self) -> int:
        """How many of its last tokens' logits are wanted."""
        if self.request.wants_prompt_logprobs:
            return self.count
        return self.drafts + 1 if self.completes else 0


class Scheduler:
    """Admission by priority, then arrival; when blocks run out, the last running request in that order is preempted.

    A preempted request gives all its blocks back, keeps the tokens it has generated, is the first of its priority to
    return, and is computed again. The first request always advances, so every request ends.
    """

    def __init__(self, limits: Limits, scheduling: Scheduling, pool: BlockPool) -> None:
        self.limits = limits
        self.scheduling = scheduling
        self.pool = pool
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self.preemptions = 0
        self._resets = 0

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    def add(self, request: Request) -> None:
        """Queues a request. Raises InputError for one that can never fit or asks to be preferred, QueueFullError."""
        if request.priority and self.scheduling.policy == "fcfs":
            raise InputError(
                "priority: requests are served first come, first served; with engine.scheduling.policy: "
                "priority in config.yaml an engine heeds it"
            )
        if self.pool.blocks_for(request.max_tokens) > self.pool.num_blocks:
            room = self.pool.num_blocks * self.pool.block_size
            raise InputError(f"prompt and max_new_tokens: {request.max_tokens} tokens; the KV cache holds {room}")
        if len(self.waiting) >= self.scheduling.max_waiting:
            raise QueueFullError(f"{len(self.waiting)} requests are waiting already; try again later")
        request.prefix = [prefix.root(request.salt, request.adapter, str(self._resets))]
        insort_right(self.waiting, request, key=_order)

    def remove(self, request: Request) -> None:
        """Forgets a request at any stage, finished or not, and frees its blocks; an unknown one is ignored."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._release(request)

    def expired(self, now: float) -> list[Request]:
        """Requests whose deadline has passed."""
        queued = (*self.running, *self.waiting)
        return [request for request in queued if request.deadline is not None and request.deadline <= now]

    def reset_prefix_cache(self) -> None:
        """Nothing computed before this is shared with a request that comes after it; those at work go on."""
        self.pool.forget()
        self._resets += 1

    def schedule(self) -> list[Chunk]:
        """The next step: at most `max_num_tokens` tokens in all, at least one when any request is queued."""
        chunks: list[Chunk] = []
        budget = _Budget(self.limits.max_num_tokens)
        preemptions = self.preemptions
        # One token to compute is a decode; while any runs, long prefills share the step with it politely.
        prefill = _Budget(self.scheduling.prefill_chunk if any(r.missing == 1 for r in self.running) else budget.left)
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
        """Records that a step's tokens have their KV in the cache, once the tokens it gave are known.

        Guesses that were not confirmed do not count, and full blocks of what does can be shared from here on.
        """
        for chunk in chunks:
            request = chunk.request
            request.computed = min(chunk.end, len(request.tokens) - 1)
            if self.scheduling.prefix_caching:
                self._publish(request, chunk.start // self.pool.block_size)

    def _continue(self, request: Request, budget: "_Budget", prefill: "_Budget") -> Chunk | None:
        count = _share(request, budget, prefill)
        if not count:
            return None
        drafts = min(len(request.drafts), budget.left - count, request.max_tokens - len(request.tokens) - 1)
        if drafts > 0 and self._grow(request, count + drafts):
            return _spend(request, count + drafts, budget, prefill, drafts)
        while not self._grow(request, count):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is request:
                return None
        return _spend(request, count, budget, prefill)

    def _admit(self, request: Request, budget: "_Budget", prefill: "_Budget") -> Chunk | None:
        found = self._find(request)
        request.computed = len(found) * self.pool.block_size
        count = _share(request, budget, prefill)
        if not count or not self._grow(request, count, found):
            request.computed = 0
            return None
        if request.cached is None:
            request.cached = request.computed
        self.waiting.pop(0)
        insort_right(self.running, request, key=_order)
        return _spend(request, count, budget, prefill)

    def _find(self, request: Request) -> list[int]:
        """Blocks that hold the request's prefix already; its last token is always computed, for its logits."""
        if not self.scheduling.prefix_caching or request.wants_prompt_logprobs:
            return []
        full = (len(request.tokens) - 1) // self.pool.block_size
        prefix.extend(request.prefix, request.tokens, full, self.pool.block_size)
        return self.pool.find(request.prefix[1 : full + 1])

    def _publish(self, request: Request, first: int) -> None:
        full = request.computed // self.pool.block_size
        prefix.extend(request.prefix, request.tokens, full, self.pool.block_size)
        for index in range(first, full):
            self.pool.publish(request.blocks[index], request.prefix[index + 1])

    def _grow(self, request: Request, count: int, shared: Sequence[int] = ()) -> bool:
        end = request.max_tokens if self.scheduling.admission == "guaranteed" else request.computed + count
        wanted = self.pool.blocks_for(end) - len(request.blocks) - len(shared)
        blocks = self.pool.allocate(max(wanted, 0), shared)
        if blocks is None:
            return False
        request.blocks += blocks
        return True

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._release(request)
        insort_left(self.waiting, request, key=_order)
        self.preemptions += 1

    def _release(self, request: Request) -> None:
        self.pool.free(request.blocks)
        request.blocks, request.drafts = [], []
        request.computed = 0


@dataclass
class _Budget:
    left: int


def _order(request: Request) -> tuple[int, float]:
    return request.priority, request.arrival


def _share(request: Request, budget: _Budget, prefill: _Budget) -> int:
    count = min(request.missing, budget.left)
    if request.wants_prompt_logprobs:
        count = min(count, _PROMPT_LOGPROBS)
    return count if request.missing == 1 else min(count, prefill.left)


def _spend(request: Request, count: int, budget: _Budget, prefill: _Budget, drafts: int = 0) -> Chunk:
    budget.left -= count
    prefill.left -= count if request.missing > 1 else 0
    return Chunk(request, request.computed, count, drafts)
