"""One compile, measured: seconds by stage, bytes written, the process's peak memory."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, process_time
from typing import Any

from packager import progress
from packager.checkpoint import Checkpoint
from packager.compile.engine import compile_engine
from packager.compile.target import choose
from packager.config import EngineConfig
from packager.config.values import parse_accelerator

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


def compiled(checkpoint: Checkpoint, config: EngineConfig, gpus: list[str]) -> dict[str, Any]:
    """Compiles into a temporary folder, which must have room for the weights.

    Seconds, bytes, MiB. `cpu_seconds`: of all threads, less than `seconds` where other work had the cores.
    `peak_memory_mib`: the process's largest resident set so far.
    """
    choice = choose([parse_accelerator(gpu) for gpu in gpus], config)
    with TemporaryDirectory(prefix="trtpack-benchmark-") as folder, _stages() as stages:
        started, busy = monotonic(), process_time()
        written = compile_engine(checkpoint, config, Path(folder) / "engine", choice)
        seconds, cpu_seconds = monotonic() - started, process_time() - busy
    sizes = {name: file.size for name, file in written.files.items()}
    plans = {name: size for name, size in sizes.items() if name.startswith("plans/")}
    return {
        "gpus": gpus,
        "backend": f"{written.backend.name} {written.backend.version}",
        "dtype": config.dtype,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "stages": {title: round(taken, 1) for title, taken in stages.items()},
        "plans": plans,
        "plan_bytes": sum(plans.values()),
        "weight_bytes": sum(size for name, size in sizes.items() if name.startswith("weights/")),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


@contextmanager
def _stages() -> Iterator[dict[str, float]]:
    """The seconds of each `progress.task`; what is left of the whole is checksums."""
    shown, seconds = progress.task, dict[str, float]()

    @contextmanager
    def timed(title: str, total: float | None = None) -> Iterator[progress.Advance]:
        started = monotonic()
        with shown(title, total) as advance:
            yield advance
        seconds[title] = monotonic() - started

    progress.task = timed
    try:
        yield seconds
    finally:
        progress.task = shown
