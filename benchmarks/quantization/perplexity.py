"""What each quantisation scheme costs on a checkpoint, on the shipped evaluation text, as JSON.

python -m benchmarks.quantization.perplexity CHECKPOINT --out benchmarks/quantization/perplexity.json
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from packager.checkpoint import Checkpoint, open_checkpoint
from packager.compile import precision, weights
from packager.config import EngineConfig
from packager.quantize import METHODS
from runtime.engine.manifest import Quality, Quantization

VARIANTS = {
    "int8": Quantization(scheme="int8", method=METHODS["int8"]),
    "int8, awq": Quantization(scheme="int8", method="awq"),
    "fp8": Quantization(scheme="fp8", method=METHODS["fp8"]),
    "fp8, rtn": Quantization(scheme="fp8"),
    "int4, groups of 32": Quantization(scheme="int4", group_size=32, method=METHODS["int4"]),
    "int4, groups of 32, gptq": Quantization(scheme="int4", group_size=32, method="gptq"),
    "int4, groups of 32, rtn": Quantization(scheme="int4", group_size=32),
    "int4, groups of 128": Quantization(scheme="int4", group_size=128, method=METHODS["int4"]),
    "int4, groups of 128, rtn": Quantization(scheme="int4", group_size=128),
    "smoothquant": Quantization(scheme="smoothquant", method=METHODS["smoothquant"]),
    "smoothquant, no smoothing": Quantization(scheme="smoothquant"),
}


def measure(checkpoint: Checkpoint, quantization: Quantization) -> Quality:
    """Quantises the whole checkpoint, in bfloat16 otherwise, and keeps nothing of it but its quality."""
    config = EngineConfig(checkpoint=checkpoint.source)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.write_tokenizer(Path(folder))
        quantizer = precision.quantizer(checkpoint, weights.plan(checkpoint), config, quantization, Path(folder))
    for _ in quantizer.tensors():
        pass
    return quantizer.quality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--variant", action="append", choices=list(VARIANTS), help="only this one; may be repeated")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    checkpoint = open_checkpoint(given.checkpoint, Path())
    results: dict[str, Any] = {}
    for name in given.variant or VARIANTS:
        started = time.monotonic()
        quality = measure(checkpoint, VARIANTS[name])
        cost = quality.perplexity / quality.reference_perplexity - 1
        results[name] = {
            "method": VARIANTS[name].method,
            **quality.model_dump(),
            "perplexity_increase": round(cost, 5),
            "seconds": round(time.monotonic() - started, 1),
        }
        print(f"{name:26} perplexity {quality.perplexity:.3f} ({cost:+.2%}), KL {quality.kl:.4f}", file=sys.stderr)
    command = f"python -m benchmarks.quantization.perplexity {Path(given.checkpoint).name}"
    report.write(command, results, given.out, packages=("torch",))


if __name__ == "__main__":
    main()
