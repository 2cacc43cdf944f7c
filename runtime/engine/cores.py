"""How many threads compute on a CPU: as many as this process was given cores, whatever the host has."""

import os
from pathlib import Path

import torch

from runtime.engine import cgroup

_CPUS = Path("/sys/devices/system/cpu")


def use_given() -> None:
    """Sets PyTorch's threads, unless OMP_NUM_THREADS did."""
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(given())


def given() -> int:
    """The physical cores that this process may run on, or its container's CPU time in whole cores if that is less.

    More threads than that would be stopped by turns, and each step waits for the last of them. Hyperthreads share
    the vector units, which products keep busy by themselves.
    """
    cores = len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})
    quota = _quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def _siblings(cpu: int) -> str:
    """What the hyperthreads of one core have in common, and no others."""
    try:
        return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> float | None:
    """CPU time over wall time; None is no limit. Version 2 has quota and period in one file, 1 in two."""
    words = (cgroup.read("cpu.max") or "").split() or [
        cgroup.read(f"cpu/cpu.cfs_{part}_us") or "" for part in ("quota", "period")
    ]
    if len(words) != 2 or not all(word.isdigit() for word in words):  # "max", or -1
        return None
    return int(words[0]) / int(words[1])
