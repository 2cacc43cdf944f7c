"""The figures on record as one picture of bars.

    python -m benchmarks.cpu.plot --out docs/images/cpu.png

Reads decode.json, decode_bfloat16.json, quantized.json and table.json in this folder, as far as they are there.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

HERE = Path(__file__).parent
TITLES = {
    "decode": "SmolLM2-135M, {dtype}, against transformers",
    "decode_bfloat16": "The same engine against transformers in bfloat16",
    "quantized": "SmolLM2-135M in four bits, against llama.cpp Q4_1",
    "table": "Whole answers of 200 tokens, {dtype}, against transformers' generate",
}
OURS, THEIRS = "#2563eb", "#9ca3af"
WIDTH = 0.38


def scales(cases: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Cases that can be read on one axis: prompts are read many times faster than answers are written."""
    parts = [[case for case in cases if (case["metric"] == "prefill") == prefill] for prefill in (False, True)]
    return [part for part in parts if part]


def draw(axes: Axes, cases: Sequence[dict[str, Any]]) -> None:
    """Medians side by side, whiskers from the least to the most, and over each pair how many times theirs ours is."""
    for offset, side, colour, label in ((-0.5, "ours", OURS, "trtpack"), (0.5, "theirs", THEIRS, "the other")):
        figures = [case[side] for case in cases]
        medians = [figure["median"] for figure in figures]
        below = [figure["median"] - figure["least"] for figure in figures]
        above = [figure["most"] - figure["median"] for figure in figures]
        places = [index + offset * WIDTH for index in range(len(cases))]
        axes.bar(places, medians, WIDTH, yerr=(below, above), color=colour, ecolor="#374151", capsize=2, label=label)
    for index, case in enumerate(cases):
        top = max(case["ours"]["most"], case["theirs"]["most"])
        axes.annotate(f"{case['ratio']:.2f}x", (index, top), xytext=(0, 4), textcoords="offset points", ha="center")
    axes.set_ylabel("tokens/s")
    axes.set_xticks(range(len(cases)), [f"{case['case']}\n{case['peer']}" for case in cases], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE, help="the folder of the JSON files")
    parser.add_argument("--out", type=Path, default=Path("docs/images/cpu.png"), help="default %(default)s")
    given = parser.parse_args()
    read = {name: given.results / f"{name}.json" for name in TITLES}
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in read.items() if path.is_file()}
    if not found:
        parser.error(f"{given.results} has none of {', '.join(path.name for path in read.values())}")
    figure = pyplot.figure(figsize=(10, 3.4 * len(found)), layout="constrained")
    for row, (name, content) in zip(figure.subfigures(len(found), 1, squeeze=False).flat, found.items(), strict=True):
        parts = scales(content["results"]["cases"])
        panels = row.subplots(1, len(parts), width_ratios=list(map(len, parts)), squeeze=False)
        for axes, cases in zip(panels.flat, parts, strict=True):
            draw(axes, cases)
        panels[0, 0].set_title(TITLES[name].format(**content["results"]), loc="left", fontsize=11)
        panels[0, 0].legend(frameon=False, fontsize=9, loc="upper left")
    machine = next(iter(found.values()))["machine"]
    figure.supxlabel(f"{machine['cpu']}, {machine['cores']} cores; medians, whiskers: least and most", fontsize=8)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.out, dpi=150)


if __name__ == "__main__":
    main()
