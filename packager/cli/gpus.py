"""`trtpack gpus`: the GPU table."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from k8s.gpus import Gpu

_UNITS = (
    "Memory, bandwidth and dense rates (TFLOP/s) are nominal; n/a where the hardware has no such arithmetic. "
    "GPUs a pod: what fills its machines. Machines, NVML's name and memory, minimum driver, sources: --json."
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print every column of the table as JSON on standard output.")
def command(as_json: bool) -> None:
    """Show the GPU types that packages can be for, and what is known of each.

    Either name goes into resources.accelerator and --gpu; a GPU without a label of GKE's is chosen by the one that GPU
    Feature Discovery gives its nodes.

    \b
    Example:
      trtpack gpus
      trtpack gpus --json
    """
    from k8s.gpus import GPUS

    if as_json:
        click.echo(json.dumps([_row(gpu) for gpu in GPUS], indent=2))
    else:
        _print(GPUS)


def _row(gpu: "Gpu") -> dict[str, Any]:
    from k8s.gpus import counts

    return asdict(gpu) | {"gfd_product": gpu.gfd_product, "counts": counts(gpu)}


def _print(gpus: "tuple[Gpu, ...]") -> None:
    from rich.console import Console

    terminal = Console(highlight=False)
    console = terminal if terminal.is_terminal else Console(highlight=False, width=160)
    console.print(_table(gpus))
    console.print(_UNITS, style="dim", markup=False)


def _table(gpus: "tuple[Gpu, ...]") -> "Table":
    from rich import box
    from rich.table import Table

    from k8s.gpus import counts

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("GPU", "Truss name", "nvidia.com/gpu.product"):
        table.add_column(name, no_wrap=True)
    for name in ("GKE\nlabel", "SM", "memory\nGB", "GB/s", "BF16", "FP8", "GPUs\na pod", "arch"):
        table.add_column(name, justify="right", no_wrap=True)
    for gpu in gpus:
        rates = (f"{rate:g}" if rate else "n/a" for rate in (gpu.bf16_tflops, gpu.fp8_tflops))
        table.add_row(
            *(gpu.name, " ".join(gpu.truss_names), gpu.gfd_product, "yes" if gpu.gke_label else "no"),
            *(gpu.compute_capability, str(gpu.memory_gb), f"{gpu.bandwidth_gb_s:,}", *rates),
            *(",".join(map(str, counts(gpu))), gpu.arch),
        )
    return table
