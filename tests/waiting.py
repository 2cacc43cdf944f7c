"""Waiting for what another process does."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import Any


def until(seen: Callable[[], Any], timeout: float = 60) -> Any:
    """What `seen` returns, as soon as it is true."""
    end = monotonic() + timeout
    while not (value := seen()):
        assert monotonic() < end, f"nothing seen in {timeout} s"
        sleep(0.2)
    return value
