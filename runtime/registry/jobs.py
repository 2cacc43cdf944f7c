"""Work with a registry that is done several at a time, for one connection does not fill a cloud machine's network."""

from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

CONNECTIONS = 4
T = TypeVar("T")
# Called with each number of bytes that are done, and with less than zero for those to be counted again.
Advance = Callable[[int], None]


class Stopped(Exception):  # noqa: N818 (no error: nobody waits any more)
    """Raised in a job, where it tells how far it is, once another one failed or the caller left."""


def run(jobs: Sequence[Callable[[Advance], T]], advance: Advance) -> list[T]:
    """What the jobs return, in their order. `advance` is called in this thread, with what the jobs tell.

    Raises what the first job to fail raised. That, or Ctrl-C, ends the wait at once: the threads are the process's to
    leave behind, and end by themselves when they have something to tell.
    """
    stop = Event()
    waiting: SimpleQueue[tuple[int, Callable[[Advance], T]]] = SimpleQueue()
    told: SimpleQueue[int | tuple[int, T] | Exception] = SimpleQueue()
    for numbered in enumerate(jobs):
        waiting.put(numbered)

    def count(amount: int) -> None:
        if stop.is_set():
            raise Stopped
        told.put(amount)

    def work() -> None:
        while not stop.is_set():
            try:
                number, job = waiting.get_nowait()
                told.put((number, job(count)))
            except Empty:
                return
            except Exception as error:
                told.put(error)

    for _ in range(min(CONNECTIONS, len(jobs))):
        Thread(target=work, daemon=True, name="registry").start()
    done: dict[int, T] = {}
    try:
        while len(done) < len(jobs):
            match told.get():
                case int(amount):
                    advance(amount)
                case Exception() as error:
                    raise error
                case (number, result):
                    done[number] = result
    finally:
        stop.set()
    return [done[number] for number in range(len(jobs))]
