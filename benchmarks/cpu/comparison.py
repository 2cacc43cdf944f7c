"""Two sides measured in turn, so that both meet the same machine, and how many times one is the other."""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.cpu import smollm2
from benchmarks.cpu.answers import Answers
from benchmarks.cpu.apart import Apart, side
from benchmarks.cpu.ours import Ours
from packager import progress
from runtime.engine.manifest import DType, Scheme

Side = Callable[[], Answers]
Metric = Callable[[Answers], float]
_WIDTH = 110  # columns of the table, in a log too


@dataclass(frozen=True)
class Case:
    """`metric` is more where it is better; `target` is the least ratio of ours to theirs that we want, if any."""

    name: str
    peer: str
    metric: Metric
    ours: Side
    theirs: Side
    target: float | None = None


def measure(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """Every case once a round, the first turn going to each side alternately. See `_result`."""
    pairs: dict[str, list[tuple[Answers, Answers]]] = {case.name: [] for case in cases}
    with progress.task("Measuring", 2 * rounds * len(cases)) as advance:
        for number in range(rounds):
            for case in cases:
                pairs[case.name].append(_pair(case, number % 2 == 1, advance))
    return [_result(case, pairs[case.name]) for case in cases]


def arguments(description: str | None, rounds: int) -> Namespace:
    """The options that all comparisons have; `--threads` is put into effect for PyTorch."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dtype", choices=get_args(DType), default=smollm2.serving_dtype(), help="default here: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each side; default %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="a side; default %(default)s")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs: no figure to keep")
    parser.add_argument("--out", type=Path, help="the JSON file; default standard output")
    given = parser.parse_args()
    given.rounds = 1 if given.quick else given.rounds
    torch.set_num_threads(given.threads)
    return given


def run(
    name: str,
    given: Namespace,
    title: str,
    cases: Callable[[Apart, Apart, Path, bool], Sequence[Case]],
    theirs: Callable[[], Any],
    peer: str,
    quantization: Scheme | None = None,
) -> None:
    """`benchmarks.cpu.<name>`: `cases` of ours, of what `theirs` makes, the engine and whether it is to be quick.

    Writes the report, with the version of the package `peer`, and a table on stderr.
    """
    with (
        smollm2.engine(given.dtype, quantization) as engine,
        side(partial(Ours, engine), given.threads) as mine,
        side(theirs, given.threads) as other,
    ):
        results = measure(cases(mine, other, engine, given.quick), given.rounds)
    Console(stderr=True, width=_WIDTH).print(_table(f"SmolLM2-135M, {given.dtype}: {title}", results))
    command = f"python -m benchmarks.cpu.{name} --dtype {given.dtype} --rounds {given.rounds} --threads {given.threads}"
    settings = {"dtype": given.dtype, "threads": given.threads, "quick": given.quick}
    report.write(command, {**settings, "cases": results}, given.out, ("torch", peer))


def _table(title: str, results: Sequence[dict[str, Any]]) -> Table:
    table = Table("", "against", title=title)
    for heading in ("ours/s", "theirs/s", "ours s", "theirs s", "ratio", "least … most", "target"):
        table.add_column(heading, justify="right")
    for result in results:
        ratios = result["ratios"]
        target = "" if result["target"] is None else f"{result['target']:.2f} {'✓' if result['met'] else '✗'}"
        table.add_row(
            result["case"],
            result["peer"],
            *(f"{result[side]['median']:.1f}" for side in ("ours", "theirs")),
            *(f"{result[side]['median_seconds']:.1f}" for side in ("ours", "theirs")),
            f"{result['ratio']:.2f}",
            f"{min(ratios):.2f} … {max(ratios):.2f}",
            target,
        )
    return table


def _pair(case: Case, theirs_first: bool, advance: progress.Advance) -> tuple[Answers, Answers]:
    def run(side: Side, name: str) -> Answers:
        answers = side()
        advance(1, f"{case.name}, {name}: {case.metric(answers):.1f} tokens/s")
        return answers

    if theirs_first:
        theirs = run(case.theirs, case.peer)
        return run(case.ours, "ours"), theirs
    ours = run(case.ours, "ours")
    return ours, run(case.theirs, case.peer)


def _result(case: Case, pairs: Sequence[tuple[Answers, Answers]]) -> dict[str, Any]:
    """Tokens/s of both sides. `ratio` is that of the medians, `ratios` those of each round."""
    ours = [case.metric(mine) for mine, _ in pairs]
    theirs = [case.metric(other) for _, other in pairs]
    ratio = median(ours) / median(theirs)
    mine, other = pairs[-1]
    return {
        "case": case.name,
        "peer": case.peer,
        "metric": case.metric.__name__,
        "unit": "tokens/s",
        "ours": _spread(ours, [pair[0].last for pair in pairs]),
        "theirs": _spread(theirs, [pair[1].last for pair in pairs]),
        "ratio": round(ratio, 3),
        "ratios": [round(a / b, 3) for a, b in zip(ours, theirs, strict=True)],
        "target": case.target,
        "met": None if case.target is None else ratio >= case.target,
        "answers": len(mine.tokens),
        "same_answers": sum(a == b for a, b in zip(mine.tokens, other.tokens, strict=False)) if other.tokens else None,
    }


def _spread(values: Sequence[float], seconds: Sequence[float]) -> dict[str, Any]:
    """`seconds`: until the last token of all."""
    return {
        "median": round(median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
        "rounds": [round(value, 2) for value in values],
        "median_seconds": round(median(seconds), 3),
    }
