"""Decode and prefill of SmolLM2-135M, ours against transformers' generate and generate_batch, as JSON.

    python -m benchmarks.cpu.decode --out benchmarks/cpu/decode.json

Greedy, the same prompts, weights, type and threads; each side in its own process, in turn. Wants a quiet machine.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.cpu import comparison, smollm2
from benchmarks.cpu.answers import decode, prefill, throughput
from benchmarks.cpu.apart import Apart
from benchmarks.cpu.comparison import Case
from benchmarks.cpu.hugging_face import HuggingFace

PROMPT, NEW = 20, 64  # tokens
TARGETS = {1: 1.6, 8: 1.7, 32: 1.8}
LONG, PREFILL_TARGET = 512, 1.05
CONTINUOUS, CONTINUOUS_TARGET = 8, 2.5


def cases(ours: Apart, theirs: Apart, engine: Path, quick: bool) -> Sequence[Case]:
    """`quick`: a few tokens, and no batch of 32."""
    new = 8 if quick else NEW

    def decoding(batch: int) -> Case:
        given = smollm2.prompts(engine, batch, PROMPT)
        name, target = f"decode, batch {batch}", TARGETS[batch]
        return Case(name, "generate", decode, ours.asked(given, new), theirs.asked(given, new), target)

    long = smollm2.prompts(engine, 1, LONG)
    eight = smollm2.prompts(engine, CONTINUOUS, PROMPT)
    theirs.asked(eight, 4, "answer_batch")()  # its first call is slower than those that follow
    return [
        *(decoding(batch) for batch in TARGETS if batch <= 8 or not quick),
        Case(
            f"prefill, {LONG} tokens",
            "generate",
            prefill,
            ours.asked(long, 1),
            theirs.asked(long, 1),
            PREFILL_TARGET,
        ),
        Case(
            f"{CONTINUOUS} requests at once",
            "generate_batch",
            throughput,
            ours.asked(eight, new),
            theirs.asked(eight, new, "answer_batch"),
            CONTINUOUS_TARGET,
        ),
    ]


def main() -> None:
    given = comparison.arguments(__doc__, rounds=5)
    theirs = partial(HuggingFace, given.dtype)
    comparison.run("decode", given, "tokens/s", cases, theirs, "transformers")


if __name__ == "__main__":
    main()
