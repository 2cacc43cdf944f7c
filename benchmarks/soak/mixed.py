"""A real server under mixed load for a while: does it answer all, keep all its blocks, and not grow? As JSON.

    python -m benchmarks.soak.mixed --minutes 20 --out benchmarks/soak/mixed.json

SmolLM2-135M over HTTP, with so small a KV cache that requests are preempted: prompts short, long and with a shared
prefix; streams, clients that leave, stop strings, several seeded answers, JSON schemas, log-probabilities,
priorities, timeouts, bad inputs. Ends with 1 when anything was wrong.
"""

import asyncio
import signal
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from benchmarks import report
from benchmarks.cpu import smollm2
from benchmarks.soak import load, memory
from benchmarks.soak.load import Tally
from benchmarks.soak.memory import Sample
from benchmarks.soak.server import Server, serving
from packager import progress
from runtime.engine.manifest import DType

REQUESTS = "trtpack_http_requests_total"
_IDLE_SECONDS = 15  # for requests whose clients have left


async def soak(server: Server, given: Namespace) -> dict[str, Any]:
    """The quiet start, the load, the quiet end."""
    known = await load.references(server.url)
    counted = _predictions(server)
    samples: list[Sample] = []
    watching = [asyncio.create_task(memory.watch(server, samples)), asyncio.create_task(_tell(given.minutes * 60))]
    tally = await load.run(server.url, given.minutes * 60, given.clients, given.seed, known)
    for task in watching:
        task.cancel()
    idle = _until_idle(server)
    counted = _predictions(server) - counted
    again = await load.references(server.url)
    return {
        "requests": _requests(tally, counted, sum(again[key] != answer for key, answer in known.items()), len(known)),
        "memory": memory.verdict(samples),
        "end": {**server.stats(), **idle},
    }


def checks(result: dict[str, Any]) -> dict[str, bool]:
    """What must hold."""
    requests, end = result["requests"], result["end"]
    return {
        "every request was answered once": requests["sent"] == requests["answered"] == requests["counted_by_server"],
        "every answer was the right one": requests["wrong"] == 0,
        "memory is flat": result["memory"]["flat"],
        "nothing runs or waits at the end": end["running"] == end["waiting"] == end["kv_cache_usage"] == 0,
        "no block is lost": end["free_blocks"] == end["total_blocks"],
        "requests were preempted": end["preemptions"] > 0,
        "no error in the log": not result["errors"],
        "it stopped cleanly": result["exit_code"] == 0,
    }


def _predictions(server: Server) -> int:
    """As the server counts them."""
    return int(server.metric(REQUESTS, method="POST"))


def _until_idle(server: Server) -> dict[str, float]:
    """The metrics, as soon as nothing is at work."""
    names = {
        "metrics_running": "trtpack_num_requests_running",
        "metrics_waiting": "trtpack_num_requests_waiting",
        "kv_cache_usage": "trtpack_kv_cache_usage_perc",
    }
    end = time.monotonic() + _IDLE_SECONDS
    while any((found := {key: server.metric(name) for key, name in names.items()}).values()):
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    return found


async def _tell(seconds: float) -> None:
    with progress.task("Load", seconds) as advance:
        while True:
            await asyncio.sleep(1)
            advance(1)


def _requests(tally: Tally, counted: int, changed: int, repeatable: int) -> dict[str, Any]:
    """Counts. `differences` of answers under load are rounding where batches differ in shape: told, not judged."""
    kinds: dict[str, dict[str, int]] = {kind: {"sent": sent} for kind, sent in sorted(tally.sent.items())}
    for (kind, outcome), count in sorted(tally.outcomes.items()):
        kinds[kind][outcome] = count
    return {
        "sent": tally.sent.total(),
        "answered": tally.outcomes.total(),
        "counted_by_server": counted,
        "wrong": tally.wrong,
        "problems": tally.problems,
        "kinds": kinds,
        "repeated_under_load": tally.compared,
        "differences_under_load": tally.differences,
        "repeated_at_end": repeatable,
        "differences_at_end": changed,
    }


def _table(title: str, result: dict[str, Any]) -> Table:
    table = Table("", "", title=title, show_header=False)
    for kind, counts in result["requests"]["kinds"].items():
        table.add_row(kind, ", ".join(f"{name}: {count}" for name, count in counts.items()))
    table.add_section()
    for name, held in result["checks"].items():
        table.add_row("✓" if held else "✗", name)
    return table


def _arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="of load; default %(default)s")
    parser.add_argument("--clients", type=int, default=32, help="that ask at the same time; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of what is asked; default %(default)s")
    parser.add_argument(
        "--dtype", choices=get_args(DType), default=smollm2.serving_dtype(), help="default: %(default)s"
    )
    parser.add_argument("--out", type=Path, help="the JSON file; default standard output")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server must not outlive this
    with serving(given.dtype) as server:
        result = asyncio.run(soak(server, given))
        result["errors"] = server.errors()
        server.stop()
    result["exit_code"] = server.exit_code
    result["checks"] = checks(result)
    progress.console.print(_table(f"{given.minutes:g} minutes, {given.clients} clients", result))
    command = f"python -m benchmarks.soak.mixed --minutes {given.minutes:g} --clients {given.clients}"
    report.write(f"{command} --seed {given.seed} --dtype {given.dtype}", result, given.out, packages=("torch",))
    sys.exit(not all(result["checks"].values()))


if __name__ == "__main__":
    main()
