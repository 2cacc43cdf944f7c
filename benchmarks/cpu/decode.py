"""Decode and prefill of SmolLM2-135M, ours against transformers' generate and generate_batch, as JSON.

    python -m benchmarks.cpu.decode --out benchmarks/cpu/decode.json

Greedy, the same prompts, weights, type and threads; each side in its own process, in turn. Wants a quiet machine.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.cpu import comparison, smollm2
from benchmarks.cpu.answers import decode, prefill, throughput
from benchmarks.cpu.apart import Apart, side
from benchmarks.cpu.comparison import Case
from benchmarks.cpu.hugging_face import HuggingFace
from benchmarks.cpu.ours import Ours

PROMPT, NEW = 20, 64  # tokens
TARGETS = {1: 1.6, 8: 1.7, 32: 1.8}
LONG, PREFILL_TARGET = 512, 1.05
CONTINUOUS, CONTINUOUS_TARGET = 8, 2.5


def cases(ours: Apart, theirs: Apart, engine: Path, quick: bool) -> Sequence[Case]:
    """`quick`: a few tokens, and no batch of 32."""
    new = 8 if quick else NEW

    def decoding(batch: int) -> Case:
        given = smollm2.prompts(engine, batch, PROMPT)
        mine, other = partial(ours.method("answer"), given, new), partial(theirs.method("answer"), given, new)
        return Case(f"decode, batch {batch}", "generate", decode, mine, other, TARGETS[batch])

    long = smollm2.prompts(engine, 1, LONG)
    eight = smollm2.prompts(engine, CONTINUOUS, PROMPT)
    theirs.method("answer_batch")(eight, 4)  # its first call is slower than those that follow
    return [
        *(decoding(batch) for batch in TARGETS if batch <= 8 or not quick),
        Case(
            f"prefill, {LONG} tokens",
            "generate",
            prefill,
            partial(ours.method("answer"), long, 1),
            partial(theirs.method("answer"), long, 1),
            PREFILL_TARGET,
        ),
        Case(
            f"{CONTINUOUS} requests at once",
            "generate_batch",
            throughput,
            partial(ours.method("answer"), eight, new),
            partial(theirs.method("answer_batch"), eight, new),
            CONTINUOUS_TARGET,
        ),
    ]


def main() -> None:
    given = comparison.arguments(__doc__, rounds=5)
    with (
        smollm2.engine(given.dtype) as engine,
        side(partial(Ours, engine), given.threads) as ours,
        side(partial(HuggingFace, given.dtype), given.threads) as theirs,
    ):
        results = comparison.measure(cases(ours, theirs, engine, given.quick), given.rounds)
    comparison.record("decode", given, "tokens/s", results, packages=("torch", "transformers"))


if __name__ == "__main__":
    main()
