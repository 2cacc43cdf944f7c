"""Threads for synchronous user code, which must not block the event loop."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar, cast

T = TypeVar("T")
END = object()


class Threads:
    """At most `count` threads, started as they are needed."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """The function's result, computed in a thread with the caller's context variables.

        A thread cannot be stopped: when cancelled, this raises only once the thread is done, so that whoever waits
        keeps its slot for as long as the work really runs.
        """
        work = partial(copy_context().run, _call, function, args)
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            future.exception()
            raise

    def close(self) -> None:
        """Ends the threads once they are idle, without waiting."""
        self._pool.shutdown(wait=False)


def _call(function: Callable[..., T], args: tuple[object, ...]) -> T:
    try:
        return function(*args)
    except StopIteration as exc:
        # A future cannot carry a StopIteration: whoever awaits it would wait for ever.
        raise RuntimeError("StopIteration left the function") from exc


async def iterate(source: Iterator[T]) -> AsyncGenerator[T, None]:
    """The items of `source`, all drawn in one thread of its own, where it is closed in the end.

    One thread, as a generator may hold thread-local state between two items (`torch.inference_mode` is).
    """
    threads, context = Threads(1, "stream"), copy_context()
    try:
        while (item := await threads.run(context.run, next, source, END)) is not END:
            yield cast(T, item)
    finally:
        if close := getattr(source, "close", None):
            await threads.run(context.run, close)
        threads.close()
