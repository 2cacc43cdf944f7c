"""The server's memory over time, and whether it grows."""

import asyncio
from collections.abc import Sequence
from statistics import linear_regression, median
from time import monotonic
from typing import Any

from benchmarks.soak.server import Server

_MIB = 2**20
WARM_UP = 180.0  # seconds in which memory may grow as it likes; a quarter of a short run
MOST_GROWTH = 0.03
_KEPT_EVERY = 10  # seconds, of the samples in the report

Sample = tuple[float, float]


async def watch(server: Server, samples: list[Sample]) -> None:
    """Adds (seconds from now, resident MiB) once a second, until cancelled."""
    started = monotonic()
    while True:
        samples.append((monotonic() - started, server.resident_bytes() / _MIB))
        await asyncio.sleep(1)


def verdict(samples: Sequence[Sample]) -> dict[str, Any]:
    """MiB: medians of the first and of the last fifth after the warm-up, and the slope of a line through all of it."""
    warm_up = min(WARM_UP, samples[-1][0] / 4)
    warm = [sample for sample in samples if sample[0] >= warm_up]
    window = max(len(warm) // 5, 1)
    before, after = (median(mib for _, mib in part) for part in (warm[:window], warm[-window:]))
    slope = linear_regression(*zip(*warm, strict=True)).slope if len(warm) > 1 else 0.0
    return {
        "warm_up_seconds": round(warm_up),
        "after_warm_up_mib": round(before, 1),
        "at_end_mib": round(after, 1),
        "growth": round(after / before - 1, 4),
        "slope_mib_per_hour": round(slope * 3600, 1),
        "peak_mib": round(max(mib for _, mib in samples), 1),
        "flat": after / before - 1 <= MOST_GROWTH,
        "samples_mib": [round(mib, 1) for _, mib in samples[::_KEPT_EVERY]],
    }
