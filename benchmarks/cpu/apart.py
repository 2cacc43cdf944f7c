"""One side of a comparison in a process of its own: neither side's threads are in the way of the other's."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

from benchmarks.cpu.answers import Answers
from benchmarks.cpu.smollm2 import Prompt

_side: Any = None


class Apart:
    """What `make` makes over there, by its methods of prompts and new tokens."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def asked(self, prompts: Sequence[Prompt], new_tokens: int, method: str = "answer") -> Callable[[], Answers]:
        """What asks these prompts over there, each time it is called."""
        return lambda: self._pool.submit(_call, method, prompts, new_tokens).result()


@contextmanager
def side(make: Callable[[], Any], threads: int) -> Iterator[Apart]:
    """`make` is called with so many threads for PyTorch; where it has a `close`, that is called in the end."""
    with ProcessPoolExecutor(1, get_context("spawn"), partial(_start, make, threads)) as pool:
        yield Apart(pool)
        pool.submit(_close).result()


def _start(make: Callable[[], Any], threads: int) -> None:
    global _side
    torch.set_num_threads(threads)
    _side = make()


def _call(name: str, prompts: Sequence[Prompt], new_tokens: int) -> Answers:
    answers: Answers = getattr(_side, name)(prompts, new_tokens)
    return answers


def _close() -> None:
    if close := getattr(_side, "close", None):
        close()
