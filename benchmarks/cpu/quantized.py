"""Our int4 engine of SmolLM2-135M (groups of 32) against llama.cpp's Q4_1 of it, as JSON.

    python -m benchmarks.cpu.quantized --out benchmarks/cpu/quantized.json

Greedy, the same prompts and threads, both streaming; each in its own process, in turn. Wants a quiet machine. llama.cpp
comes in the prebuilt wheel of xllamacpp, which is compiled for AVX2: one built for this very CPU may be faster.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.cpu import comparison, smollm2
from benchmarks.cpu.answers import throughput
from benchmarks.cpu.apart import Apart
from benchmarks.cpu.comparison import Case
from benchmarks.cpu.llama_cpp import LlamaCpp

PROMPT, NEW = 20, 128  # tokens
TARGETS = {1: 0.9, 8: 1.7}


def cases(ours: Apart, theirs: Apart, engine: Path, quick: bool) -> Sequence[Case]:
    """`quick`: a few tokens."""
    new = 8 if quick else NEW

    def generating(batch: int) -> Case:
        given = smollm2.prompts(engine, batch, PROMPT)
        name, target = f"int4, {batch} at once", TARGETS[batch]
        return Case(name, "llama.cpp Q4_1", throughput, ours.asked(given, new), theirs.asked(given, new), target)

    return [generating(batch) for batch in TARGETS]


def main() -> None:
    given = comparison.arguments(__doc__, rounds=5)
    theirs = partial(LlamaCpp, smollm2.gguf(), given.threads, slots=max(TARGETS))
    title = "four bits, tokens/s of whole answers"
    comparison.run("quantized", given, title, cases, theirs, "xllamacpp", quantization="int4")


if __name__ == "__main__":
    main()
