"""Short, medium and long prompts, for one user and for eight at once: ours against transformers' generate, as JSON.

    python -m benchmarks.cpu.table --out benchmarks/cpu/table.json

Greedy answers of 200 tokens; for transformers, eight users are one call with a batch of eight. Wants a quiet machine.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.cpu import comparison, smollm2
from benchmarks.cpu.answers import throughput
from benchmarks.cpu.apart import Apart
from benchmarks.cpu.comparison import Case
from benchmarks.cpu.hugging_face import HuggingFace

PROMPTS = {"small": 20, "medium": 250, "large": 1500}  # tokens
NEW = 200
USERS = (1, 8)


def cases(ours: Apart, theirs: Apart, engine: Path, quick: bool) -> Sequence[Case]:
    """`quick`: a few tokens, and no large prompt."""
    new = 4 if quick else NEW

    def answering(size: str, users: int) -> Case:
        given = smollm2.prompts(engine, users, PROMPTS[size])
        name = f"{size}, {users} at once" if users > 1 else f"{size}, alone"
        return Case(name, "generate", throughput, ours.asked(given, new), theirs.asked(given, new))

    return [answering(size, users) for users in USERS for size in PROMPTS if size != "large" or not quick]


def main() -> None:
    given = comparison.arguments(__doc__, rounds=2)
    theirs = partial(HuggingFace, given.dtype)
    comparison.run("table", given, "tokens/s of whole answers", cases, theirs, "transformers")


if __name__ == "__main__":
    main()
