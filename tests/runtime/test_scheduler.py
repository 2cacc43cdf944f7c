"""The scheduler and block pool without a model: tokens are numbers, and a step always succeeds."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.block_pool import BlockPool
from runtime.errors import QueueFullError
from runtime.request import Delta, Request
from runtime.sampling import SamplingParams
from runtime.scheduler import Chunk, Limits, Scheduler
from runtime.text import Detokenizer


class Letters:
    def decode(self, ids: list[int]) -> str:
        return "x" * len(ids)


def make_request(prompt: int, new: int = 4) -> Request:
    def deliver(delta: Delta) -> None:
        raise AssertionError("the scheduler delivers nothing")

    return Request(tuple(range(prompt)), SamplingParams(), new, deliver, Detokenizer(Letters()))


def make_scheduler(
    *, tokens: int = 64, batch: int = 8, blocks: int = 100, block_size: int = 4, chunk: int = 64, waiting: int = 100
) -> Scheduler:
    return Scheduler(Limits(tokens, batch, chunk, waiting), BlockPool(blocks, block_size))


def step(scheduler: Scheduler) -> list[Chunk]:
    """One step as the engine loop makes it; finished requests leave."""
    chunks = scheduler.schedule()
    completing = [chunk for chunk in chunks if chunk.completes]
    scheduler.computed(chunks)
    for chunk in completing:
        if chunk.request.append(7).finish_reason:
            scheduler.remove(chunk.request)
    return chunks


def counts(chunks: list[Chunk]) -> list[int]:
    return [chunk.count for chunk in chunks]


def test_a_prompt_is_cut_to_the_budget_and_only_its_last_chunk_completes() -> None:
    scheduler = make_scheduler(tokens=10)
    scheduler.add(make_request(25))
    steps = []
    for _ in range(3):
        chunks = scheduler.schedule()
        steps.append([(chunk.start, chunk.count, chunk.completes) for chunk in chunks])
        scheduler.computed(chunks)
    assert steps == [[(0, 10, False)], [(10, 10, False)], [(20, 5, True)]]


def test_requests_share_a_step_in_order_of_arrival() -> None:
    scheduler = make_scheduler(tokens=10)
    for prompt in (4, 3, 9):
        scheduler.add(make_request(prompt))
    assert counts(step(scheduler)) == [4, 3, 3]
    assert counts(step(scheduler)) == [1, 1, 6]


def test_a_long_prompt_leaves_room_while_others_decode() -> None:
    scheduler = make_scheduler(tokens=64, chunk=5)
    scheduler.add(make_request(3))
    step(scheduler)
    scheduler.add(make_request(40))
    assert counts(step(scheduler)) == [1, 5]


def test_a_long_prompt_alone_gets_the_whole_step() -> None:
    scheduler = make_scheduler(tokens=64, chunk=5)
    scheduler.add(make_request(40))
    assert counts(step(scheduler)) == [40]


def test_the_batch_never_exceeds_its_size() -> None:
    scheduler = make_scheduler(batch=2)
    for _ in range(3):
        scheduler.add(make_request(2))
    assert len(step(scheduler)) == 2
    assert len(scheduler.waiting) == 1


def test_the_newest_is_preempted_keeps_its_tokens_and_goes_first() -> None:
    scheduler = make_scheduler(blocks=4, block_size=4)
    old, new, later = make_request(8, 8), make_request(7, 8), make_request(1)
    for request in (old, new, later):
        scheduler.add(request)
    step(scheduler)
    assert scheduler.running == [old, new]
    step(scheduler)
    assert scheduler.running == [old]
    assert list(scheduler.waiting) == [new, later]
    assert (new.computed, new.blocks, new.generated) == (0, [], 1)
    assert scheduler.preemptions == 1


def test_a_request_removed_at_any_stage_frees_its_blocks() -> None:
    scheduler = make_scheduler(tokens=5)
    waiting, midway, decoding = make_request(50), make_request(8), make_request(3)
    for request in (decoding, midway, waiting):
        scheduler.add(request)
    step(scheduler)
    for request in (waiting, midway, decoding, decoding):
        scheduler.remove(request)
    assert scheduler.idle
    assert scheduler.pool.num_free == scheduler.pool.num_blocks


def test_a_full_queue_refuses() -> None:
    scheduler = make_scheduler(waiting=1)
    scheduler.add(make_request(1))
    with pytest.raises(QueueFullError, match="1 requests are waiting"):
        scheduler.add(make_request(1))


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, steps and cancellations in any order, in a pool that holds about two requests."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = make_scheduler(tokens=9, batch=3, blocks=10, block_size=4, chunk=3)
        self.alive: list[Request] = []

    @rule(prompt=st.integers(1, 30), new=st.integers(1, 10))
    def arrive(self, prompt: int, new: int) -> None:
        request = make_request(prompt, new)
        self.scheduler.add(request)
        self.alive.append(request)

    @precondition(lambda self: self.alive)
    @rule(index=st.integers(0, 1000))
    def cancel(self, index: int) -> None:
        self.scheduler.remove(self.alive.pop(index % len(self.alive)))

    @rule()
    def advance(self) -> None:
        before = {id(request): request.generated for request in self.alive}
        chunks = step(self.scheduler)
        assert bool(chunks) == bool(self.alive), "a step computes something as long as anybody waits"
        assert sum(counts(chunks)) <= 9
        assert len({id(chunk.request) for chunk in chunks}) == len(chunks)
        for chunk in chunks:
            grown = chunk.request.generated - before[id(chunk.request)]
            assert grown == (chunk.end == len(chunk.request.tokens) - grown)
        self.alive = [r for r in self.alive if r.generated < r.max_new_tokens]

    @invariant()
    def every_block_has_one_owner(self) -> None:
        held = [block for request in self.alive for block in request.blocks]
        assert len(held) == len(set(held))
        assert self.scheduler.pool.num_free + len(held) == self.scheduler.pool.num_blocks

    @invariant()
    def blocks_hold_what_is_computed(self) -> None:
        for request in self.alive:
            assert len(request.blocks) * 4 >= request.computed
        assert all(not request.blocks and not request.computed for request in self.scheduler.waiting)

    @invariant()
    def nobody_is_lost(self) -> None:
        queued = {id(r) for r in [*self.scheduler.running, *self.scheduler.waiting]}
        assert queued == {id(request) for request in self.alive}

    def teardown(self) -> None:
        """Whatever happened, the rest finishes, in a bounded number of steps."""
        left = sum(request.max_tokens for request in self.alive)
        for _ in range(left * 40):
            if not self.alive:
                break
            self.advance()
        assert self.scheduler.idle
        assert self.scheduler.pool.num_free == self.scheduler.pool.num_blocks


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
