"""Several jobs at a time."""

import threading
from functools import partial

import pytest

from runtime.registry.jobs import CONNECTIONS, Advance, Stopped, run


def test_results_come_in_the_order_of_the_jobs() -> None:
    told: list[int] = []

    def job(number: int, advance: Advance) -> int:
        advance(number)
        return number * 10

    assert run([partial(job, number) for number in range(9)], told.append) == [number * 10 for number in range(9)]
    assert sorted(told) == list(range(9))


def test_there_may_be_none() -> None:
    assert run([], print) == []


def test_they_run_at_the_same_time() -> None:
    everybody = threading.Barrier(CONNECTIONS, timeout=10)
    assert len(run([lambda advance: everybody.wait() for _ in range(CONNECTIONS)], print)) == CONNECTIONS


def test_the_first_to_fail_stops_the_others_where_they_tell_how_far_they_are() -> None:
    begun, stopped, go = threading.Event(), threading.Event(), threading.Event()

    def slow(advance: Advance) -> None:
        begun.set()
        go.wait(10)
        try:
            while True:
                advance(1)
        except Stopped:
            stopped.set()
            raise

    def bad(advance: Advance) -> None:
        begun.wait(10)
        raise ValueError("this one")

    later: list[int] = []
    with pytest.raises(ValueError, match="this one"):
        run([slow, bad], later.append)
    go.set()
    assert stopped.wait(10)


def test_ctrl_c_ends_the_wait_at_once() -> None:
    """A job that hears of nothing is left behind."""
    go = threading.Event()

    def interrupt(amount: int) -> None:
        raise KeyboardInterrupt

    def stuck(advance: Advance) -> None:
        advance(1)
        go.wait(30)

    with pytest.raises(KeyboardInterrupt):
        run([stuck], interrupt)
    go.set()
