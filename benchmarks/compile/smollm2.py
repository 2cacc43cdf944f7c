"""A checkpoint of SmolLM2's size compiled for an L4, a T4 and an RTX PRO 6000, one after the other, as JSON.

python -m benchmarks.compile.smollm2 CHECKPOINT --out benchmarks/compile/smollm2.json
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.compile.measure import PACKAGES, compiled
from packager.checkpoint import open_checkpoint
from packager.config import EngineConfig
from runtime.engine.manifest import DType

# A T4 has no bfloat16.
GPUS: dict[str, DType] = {"L4": "bfloat16", "T4": "float16", "RTX_PRO_6000": "bfloat16"}


def compiled_alone(source: str, gpu: str) -> dict[str, Any]:
    """To be run in a process of its own, in which nothing has been exported before."""
    config = EngineConfig(checkpoint=source, dtype=GPUS[gpu])
    return compiled(open_checkpoint(source, Path()), config, [gpu])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        results = list(processes.map(partial(compiled_alone, given.checkpoint), GPUS))
    report.write(f"python -m benchmarks.compile.smollm2 {Path(given.checkpoint).name}", results, given.out, PACKAGES)


if __name__ == "__main__":
    main()
