"""The scheduler and block pool without a model: tokens are numbers, and a step always succeeds."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.block_pool import BlockPool
from runtime.engine.manifest import Limits, Scheduling
from runtime.errors import InputError, QueueFullError
from runtime.request import Delta, Request
from runtime.sampling import Choice, SamplingParams
from runtime.scheduler import Chunk, Scheduler
from runtime.text import Detokenizer


def deliver(delta: Delta) -> None:
    raise AssertionError("the scheduler delivers nothing")


def letters(ids: Sequence[int]) -> str:
    return "x" * len(ids)


def make_request(prompt: int | Sequence[int], new: int = 4, **options: object) -> Request:
    tokens = tuple(range(prompt)) if isinstance(prompt, int) else tuple(prompt)
    return Request(tokens, SamplingParams(), new, deliver, Detokenizer(letters), **options)  # type: ignore[arg-type]


def make_scheduler(
    *,
    tokens: int = 64,
    batch: int = 8,
    blocks: int = 100,
    block_size: int = 4,
    chunk: int = 64,
    waiting: int = 100,
    **scheduling: Any,
) -> Scheduler:
    limits = Limits(max_model_len=1000, max_batch_size=batch, max_num_tokens=tokens)
    given = Scheduling(**{"policy": "priority", "prefill_chunk": chunk, "max_waiting": waiting, **scheduling})
    return Scheduler(limits, given, BlockPool(blocks, block_size))


def step(
    scheduler: Scheduler, token: int = 7, confirmed: int = 0, written: Callable[[Chunk], None] = lambda chunk: None
) -> list[Chunk]:
    """One step as the engine loop makes it; finished requests leave. `confirmed` of the guesses are right.

    `written` is told of each chunk while its blocks are still there.
    """
    chunks = scheduler.schedule()
    done = []
    for chunk in chunks:
        if chunk.completes:
            request, agreed = chunk.request, min(confirmed, chunk.drafts)
            choices = [Choice(guess) for guess in request.drafts[:agreed]] + [Choice(token)]
            if request.advance(choices).finish_reason:
                done.append(request)
    scheduler.computed(chunks)
    for chunk in chunks:
        written(chunk)
        chunk.request.drafts = []
    for request in done:
        scheduler.remove(request)
    return chunks


def counts(chunks: list[Chunk]) -> list[int]:
    return [chunk.count for chunk in chunks]


def run(scheduler: Scheduler, request: Request) -> Request:
    """Adds a request and runs it, and whatever else is there, to its end."""
    scheduler.add(request)
    while request.generated < request.max_new_tokens:
        step(scheduler)
    return request


def test_a_prompt_is_cut_to_the_budget_and_only_its_last_chunk_completes() -> None:
    scheduler = make_scheduler(tokens=10)
    request = make_request(25)
    scheduler.add(request)
    steps = []
    for _ in range(3):
        chunks = scheduler.schedule()
        steps.append([(chunk.start, chunk.count, chunk.completes) for chunk in chunks])
        request.advance([Choice(7)] if chunks[0].completes else [])
        scheduler.computed(chunks)
    assert steps == [[(0, 10, False)], [(10, 10, False)], [(20, 5, True)]]
    assert request.generated == 1


def test_requests_share_a_step_in_order_of_arrival() -> None:
    scheduler = make_scheduler(tokens=10, prefix_caching=False)
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
    old, new, later = make_request(8, 8), make_request(range(100, 107), 8), make_request(1)
    for request in (old, new, later):
        scheduler.add(request)
    step(scheduler)
    assert scheduler.running == [old, new]
    step(scheduler)
    assert scheduler.running == [old]
    assert scheduler.waiting == [new, later]
    assert (new.computed, new.blocks, new.generated) == (0, [], 1)
    assert scheduler.preemptions == 1


def test_a_preempted_request_finds_its_own_blocks_again() -> None:
    scheduler = make_scheduler(blocks=6, block_size=4)
    old, new = make_request(7, 8), make_request(range(100, 109), 10)
    scheduler.add(old)
    scheduler.add(new)
    while not scheduler.preemptions:
        step(scheduler)
    starts = []
    while scheduler.running or scheduler.waiting:
        starts += [chunk.start for chunk in step(scheduler) if chunk.request is new]
    assert starts[0] > 0, "old took some of them, from the tail"


def test_a_lower_number_goes_first_and_arrival_decides_among_equals() -> None:
    scheduler = make_scheduler(batch=1)
    late, urgent, early = (make_request(2, 1, priority=p, arrival=a) for p, a in ((1, 2.0), (0, 3.0), (1, 1.0)))
    for request in (late, urgent, early):
        scheduler.add(request)
    assert [step(scheduler)[0].request for _ in range(3)] == [urgent, early, late]


def test_first_come_first_served_refuses_a_request_that_wants_to_be_preferred() -> None:
    scheduler = make_scheduler(policy="fcfs")
    with pytest.raises(InputError, match=r"priority: .*engine\.scheduling\.policy: priority"):
        scheduler.add(make_request(4, priority=-1))
    scheduler.add(make_request(4))
    assert len(scheduler.waiting) == 1


def test_the_least_urgent_is_preempted_though_it_came_first() -> None:
    scheduler = make_scheduler(blocks=5, block_size=4)
    patient = make_request(8, 8, priority=5)
    urgent = make_request(range(100, 108), 8, priority=0)
    scheduler.add(patient)
    step(scheduler)
    scheduler.add(urgent)
    while not scheduler.preemptions:
        step(scheduler)
    assert scheduler.running == [urgent]
    assert scheduler.waiting == [patient]


def test_a_guaranteed_request_waits_until_all_it_may_need_is_free_and_is_never_preempted() -> None:
    scheduler = make_scheduler(blocks=5, block_size=4, admission="guaranteed", prefix_caching=False)
    first, second = make_request(4, 8), make_request(4, 8)
    for request in (first, second):
        scheduler.add(request)
    while first in scheduler.running or first in scheduler.waiting:
        step(scheduler)
        assert second.computed == 0
    while not scheduler.idle:
        step(scheduler)
    assert scheduler.preemptions == 0


def test_what_can_never_fit_is_refused_at_once() -> None:
    scheduler = make_scheduler(blocks=4, block_size=4)
    scheduler.add(make_request(8, 8))
    with pytest.raises(InputError, match="17 tokens; the KV cache holds 16"):
        scheduler.add(make_request(8, 9))
    assert len(scheduler.waiting) == 1


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


def test_deadlines() -> None:
    scheduler = make_scheduler(batch=1)
    running, waiting, patient = make_request(1, deadline=5.0), make_request(1, deadline=6.0), make_request(1)
    for request in (running, waiting, patient):
        scheduler.add(request)
    step(scheduler)
    assert scheduler.expired(4.9) == []
    assert scheduler.expired(5.0) == [running]
    assert scheduler.expired(7.0) == [running, waiting]


class TestPrefixCache:
    @pytest.mark.parametrize(("prompt", "hit"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (11, 8)])
    def test_exactly_the_full_blocks_hit_and_the_last_token_is_computed(self, prompt: int, hit: int) -> None:
        scheduler = make_scheduler(block_size=4)
        run(scheduler, make_request(prompt))
        again = make_request(prompt)
        scheduler.add(again)
        (chunk,) = scheduler.schedule()
        assert (chunk.start, chunk.count, again.cached) == (hit, prompt - hit, hit)
        assert chunk.completes

    def test_generated_tokens_are_shared_too(self) -> None:
        scheduler = make_scheduler(block_size=4)
        first = run(scheduler, make_request(6, 5))
        again = make_request(first.tokens)
        scheduler.add(again)
        scheduler.schedule()
        assert again.cached == 8

    def test_the_last_token_of_a_whole_answer_was_never_computed(self) -> None:
        scheduler = make_scheduler(block_size=4)
        first = run(scheduler, make_request(4, 4))
        again = make_request([*first.tokens, 1])
        scheduler.add(again)
        scheduler.schedule()
        assert again.cached == 4

    @pytest.mark.parametrize("other", [{"salt": "tenant"}, {"adapter": "poet"}])
    def test_another_salt_or_adapter_never_hits(self, other: dict[str, str]) -> None:
        scheduler = make_scheduler()
        run(scheduler, make_request(20))
        stranger, friend = make_request(20, **other), make_request(20)
        for request in (stranger, friend):
            scheduler.add(request)
        scheduler.schedule()
        assert (stranger.cached, friend.cached) == (0, 16)

    def test_different_beginnings_never_hit(self) -> None:
        scheduler = make_scheduler()
        run(scheduler, make_request([1] * 20))
        other = make_request([2, *[1] * 19])
        scheduler.add(other)
        scheduler.schedule()
        assert other.cached == 0

    def test_two_at_once_share_what_the_first_has_computed(self) -> None:
        scheduler = make_scheduler(blocks=12, block_size=4)
        first, second = make_request(17, 8), make_request(17, 8)
        scheduler.add(first)
        step(scheduler)
        scheduler.add(second)
        step(scheduler)
        assert second.cached == 16
        assert second.blocks[:4] == first.blocks[:4]
        assert second.blocks[4] != first.blocks[4], "a block that is not full is never shared"
        scheduler.remove(first)
        assert scheduler.pool.num_free == 12 - len(second.blocks)

    def test_an_admission_that_fails_counts_nothing(self) -> None:
        scheduler = make_scheduler(blocks=8, block_size=4)
        run(scheduler, make_request(9))
        hog, later = make_request(range(100, 116), 8), make_request([*range(9), *range(50, 60)])
        scheduler.add(hog)
        step(scheduler)
        scheduler.add(later)
        step(scheduler)
        assert later.blocks == [] and later.cached is None and later.computed == 0
        while later.cached is None:
            step(scheduler)
        while not scheduler.idle:
            step(scheduler)
        assert scheduler.pool.num_free == 8

    def test_after_a_reset_nothing_older_hits_and_those_at_work_go_on(self) -> None:
        scheduler = make_scheduler()
        working = make_request(12, 8)
        scheduler.add(working)
        step(scheduler)
        scheduler.reset_prefix_cache()
        while working.generated < 8:
            step(scheduler)
        again = make_request(12)
        scheduler.add(again)
        scheduler.schedule()
        assert again.cached == 0

    def test_prompt_logprobs_need_the_prompt_computed(self) -> None:
        scheduler = make_scheduler()
        run(scheduler, make_request(12))
        asking = make_request(12)
        asking.sampling = SamplingParams(prompt_logprobs=0)
        scheduler.add(asking)
        (chunk,) = scheduler.schedule()
        assert (chunk.start, chunk.wanted) == (0, 12)


class TestDrafts:
    def decoding(self, scheduler: Scheduler, prompt: int = 5, new: int = 20) -> Request:
        request = make_request(prompt, new)
        scheduler.add(request)
        step(scheduler)
        return request

    def test_guesses_ride_along_and_those_confirmed_are_computed(self) -> None:
        scheduler = make_scheduler(block_size=4)
        request = self.decoding(scheduler)
        request.drafts = [1, 2, 3]
        (chunk,) = step(scheduler, confirmed=2)
        assert (chunk.start, chunk.count, chunk.drafts) == (5, 4, 3)
        assert request.tokens[5:] == [7, 1, 2, 7]
        assert request.computed == 8

    def test_logits_are_wanted_of_the_last_known_token_and_of_every_guess(self) -> None:
        scheduler = make_scheduler()
        request = self.decoding(scheduler)
        request.drafts = [1, 2, 3]
        (chunk,) = scheduler.schedule()
        assert chunk.wanted == 4

    def test_a_guess_that_was_wrong_is_never_shared(self) -> None:
        scheduler = make_scheduler(block_size=4)
        request = self.decoding(scheduler, prompt=5)
        request.drafts = [1, 2]  # positions 6 and 7 would fill the second block
        step(scheduler, confirmed=0)
        assert request.computed == 6
        assert scheduler.pool.num_published == 1
        guessed = make_request([*range(5), 7, 1, 2, 9])
        scheduler.add(guessed)
        scheduler.schedule()
        assert guessed.cached == 4

    def test_guesses_never_pass_max_new_tokens(self) -> None:
        scheduler = make_scheduler()
        request = self.decoding(scheduler, new=4)
        request.drafts = [1, 2, 3, 4, 5]
        (chunk,) = step(scheduler, confirmed=9)
        assert chunk.drafts == 2
        assert request.generated == 4

    def test_guesses_keep_to_the_budget(self) -> None:
        scheduler = make_scheduler(tokens=5)
        request = self.decoding(scheduler)
        request.drafts = [1] * 9
        assert counts(step(scheduler)) == [5]

    def test_guesses_keep_to_what_a_guaranteed_request_has_reserved(self) -> None:
        scheduler = make_scheduler(block_size=4, admission="guaranteed")
        request = self.decoding(scheduler, prompt=5, new=20)
        reserved = list(request.blocks)
        assert len(reserved) == 7
        while request.generated < 20:
            assert request.blocks == reserved
            request.drafts = [1] * 9
            (chunk,) = step(scheduler, confirmed=2)
            assert chunk.end < request.max_tokens

    def test_nobody_is_preempted_for_a_guess(self) -> None:
        scheduler = make_scheduler(blocks=3, block_size=4, prefix_caching=False)
        first, second = self.decoding(scheduler, prompt=3, new=9), self.decoding(scheduler, prompt=2, new=6)
        first.drafts = [1, 1, 1, 1]
        chunks = step(scheduler)
        assert [(chunk.request, chunk.drafts) for chunk in chunks] == [(first, 0), (second, 0)]
        assert scheduler.preemptions == 0


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, steps, guesses, resets and cancellations in any order, in a pool that holds about two requests."""

    @initialize(
        admission=st.sampled_from(["on_demand", "guaranteed"]),
        prefix_caching=st.booleans(),
        tokens=st.sampled_from([1, 9, 64]),
    )
    def open(self, admission: str, prefix_caching: bool, tokens: int) -> None:
        self.budget = tokens
        self.scheduler = make_scheduler(
            tokens=tokens, batch=3, blocks=10, block_size=4, chunk=3, admission=admission, prefix_caching=prefix_caching
        )
        self.alive: list[Request] = []
        self.contents: dict[int, tuple[tuple[int, ...], str]] = {}

    @rule(
        kind=st.integers(0, 2),
        prompt=st.integers(1, 30),
        new=st.integers(1, 10),
        priority=st.integers(0, 1),
        salt=st.sampled_from(["", "x"]),
    )
    def arrive(self, kind: int, prompt: int, new: int, priority: int, salt: str) -> None:
        """Prompts of three kinds, so that many begin alike."""
        request = make_request([kind] * prompt, new, priority=priority, salt=salt)
        self.scheduler.add(request)
        self.alive.append(request)

    @precondition(lambda self: self.alive)
    @rule(index=st.integers(0, 1000))
    def cancel(self, index: int) -> None:
        self.scheduler.remove(self.alive.pop(index % len(self.alive)))

    @precondition(lambda self: self.alive)
    @rule(index=st.integers(0, 1000), count=st.integers(1, 6))
    def guess(self, index: int, count: int) -> None:
        request = self.alive[index % len(self.alive)]
        if request.missing == 1 and request in self.scheduler.running:
            request.drafts = [7] * count

    @rule()
    def reset(self) -> None:
        self.scheduler.reset_prefix_cache()

    @rule(token=st.integers(6, 8), confirmed=st.integers(0, 6))
    def advance(self, token: int = 7, confirmed: int = 0) -> None:
        before = {id(request): request.generated for request in self.alive}
        chunks = step(self.scheduler, token, confirmed, self.write)
        assert bool(chunks) == bool(self.alive), "a step computes something as long as anybody waits"
        assert sum(counts(chunks)) <= self.budget
        assert len({id(chunk.request) for chunk in chunks}) == len(chunks)
        for chunk in chunks:
            grown = chunk.request.generated - before[id(chunk.request)]
            known = len(chunk.request.tokens) - grown
            assert (grown > 0) == (chunk.end - chunk.drafts == known)
            assert grown <= chunk.drafts + 1
        self.alive = [r for r in self.alive if r.generated < r.max_new_tokens]

    def write(self, chunk: Chunk) -> None:
        """What a step puts into blocks: nobody else may be reading them."""
        request = chunk.request
        for index in range(chunk.start // 4, -(-request.computed // 4)):
            readers = [r for r in self.alive if request.blocks[index] in r.blocks and r is not request]
            assert not [r for r in readers if r.computed < (index + 1) * 4], "a block that is not full has one user"
            self.contents[request.blocks[index]] = (tuple(request.tokens[: (index + 1) * 4]), request.salt)

    @invariant()
    def no_block_is_lost(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        held = {block for request in self.alive for block in request.blocks}
        assert self.scheduler.pool.num_free + len(held) == self.scheduler.pool.num_blocks

    @invariant()
    def blocks_hold_what_is_computed(self) -> None:
        for request in getattr(self, "alive", ()):
            assert len(request.blocks) * 4 >= request.computed
            for index in range(request.computed // 4):
                tokens, salt = self.contents[request.blocks[index]]
                assert tokens == tuple(request.tokens[: (index + 1) * 4]) and salt == request.salt
        if hasattr(self, "scheduler"):
            assert all(not request.blocks and not request.computed for request in self.scheduler.waiting)

    @invariant()
    def nobody_is_lost_and_everybody_is_in_order(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        assert {id(r) for r in [*scheduler.running, *scheduler.waiting]} == {id(request) for request in self.alive}
        for queue in (scheduler.running, scheduler.waiting):
            assert queue == sorted(queue, key=lambda request: (request.priority, request.arrival))
        assert scheduler.scheduling.admission == "on_demand" or scheduler.preemptions == 0

    def teardown(self) -> None:
        """Whatever happened, the rest finishes, in a bounded number of steps."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(sum(request.max_tokens for request in self.alive) * 40):
            if not self.alive:
                break
            self.advance()
        assert self.scheduler.idle
        assert self.scheduler.pool.num_free == self.scheduler.pool.num_blocks


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)


def test_thousands_of_steps_at_random_lose_nothing() -> None:
    """A long life, which the state machine's many short ones are not."""
    source, scheduler = random.Random(0), make_scheduler(tokens=24, batch=6, blocks=40, block_size=4, chunk=8)
    alive: list[Request] = []
    for _ in range(5000):
        if len(scheduler.waiting) < 10 and source.random() < 0.4:
            prompt = [source.randrange(2)] * source.randint(1, 40)
            alive.append(make_request(prompt, source.randint(1, 30), priority=source.randrange(2)))
            scheduler.add(alive[-1])
        if alive and source.random() < 0.05:
            scheduler.remove(alive.pop(source.randrange(len(alive))))
        if source.random() < 0.01:
            scheduler.reset_prefix_cache()
        for request in scheduler.running:
            if request.missing == 1 and source.random() < 0.3:
                request.drafts = [7] * source.randint(1, 5)
        assert sum(counts(step(scheduler, confirmed=source.randrange(4)))) <= 24
        alive = [request for request in alive if request.generated < request.max_new_tokens]
        held = {block for request in alive for block in request.blocks}
        assert scheduler.pool.num_free + len(held) == 40
    assert scheduler.preemptions > 100
    while not scheduler.idle:
        step(scheduler)
    assert scheduler.pool.num_free == 40
