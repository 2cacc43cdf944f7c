"""How long each phase of a process's start took: kept here by name, and shown by whoever serves."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

seconds: dict[str, float] = {}


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Keeps how long the body took as `name`; a second time adds up, and a body that raises is not kept.

    Phases may lie in one another: each has all of its own time.
    """
    started = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def age() -> float | None:
    """Seconds since this process was forked, in steps of a hundredth; None where there is no /proc, so but on Linux.

    Field 22 of /proc/self/stat counts clock ticks since boot (proc_pid_stat(5)), as CLOCK_BOOTTIME counts seconds.
    """
    try:
        stat = Path("/proc/self/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    # The second field, the command's name in parentheses, may hold spaces and parentheses of its own.
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def told() -> str:
    """Such as "imports 0.61 s, port 0.02 s", in the order in which they ended."""
    return ", ".join(f"{name} {taken:.2f} s" for name, taken in seconds.items())
