"""`trtpack plan`: on which GPUs a model fits, and how fast it could be there."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from packager.cli.engine import engine_config, precision_options
from packager.cli.gpu import accelerators
from packager.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from k8s.gpus import Gpu
    from packager.config import Accelerator
    from packager.plan.estimate import Estimate
    from packager.plan.subject import Subject

_CONTEXT = 2048
_BOUND = (
    "Speeds are a roofline, an upper bound from each GPU's nominal bandwidth and FLOP rate: not a measurement, and "
    "more than will be reached."
)
_ALONE = "Tensor parallelism, one engine over several GPUs, is not in this version."


@click.command()
@click.argument("source", metavar="[SRC]", default=".")
@click.option(
    "--gpu", "gpus", metavar="NAME", multiple=True, callback=accelerators, help="Only this one: L4, a GKE label."
)
@precision_options
@click.option("--max-model-len", metavar="N", type=click.IntRange(1), help="Instead of engine.max_model_len.")
@click.option(
    "--context",
    metavar="N",
    type=click.IntRange(1),
    help=f"Tokens of each sequence, which speeds and batches depend on; {_CONTEXT}, or max_model_len if that is less.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on standard output; sizes in bytes.")
def command(source: str, gpus: "tuple[Accelerator, ...]", context: int | None, as_json: bool, **options: Any) -> None:
    """Show on which GPUs a model fits, with how many sequences at once, and how fast it could be at best.

    SRC is a package, a checkpoint's folder or its config.json alone, a .gguf, or hf://ORG/NAME[@REVISION], of which
    nothing but config.json is downloaded.

    \b
    Example:
      trtpack plan hf://meta-llama/Llama-3.1-8B --max-model-len 8192
      trtpack plan smollm --gpu L4 --gpu H100 --quantization fp8 --json
    """
    from packager.plan.estimate import estimate
    from packager.plan.subject import subject

    base = Path(source)
    if (base / "config.yaml").is_file():
        from packager.config import load

        asked = subject(engine_config(load(base).engine, options), base)
    else:
        asked = subject(engine_config(None, {"checkpoint": source, **options}), Path())
    tokens = _context(context, asked)
    found = [estimate(gpu, asked, tokens) for gpu in _gpus(gpus)]
    if as_json:
        click.echo(json.dumps(_json(asked, tokens, found)))
    else:
        _print(asked, tokens, found)


def _gpus(named: "tuple[Accelerator, ...]") -> "tuple[Gpu, ...]":
    from k8s.gpus import GPUS

    for accelerator in named:
        if accelerator.count > 1:
            raise ConfigError(
                f"an engine runs on one GPU in this version, and --gpu {accelerator} asks for {accelerator.count}",
                "Name the GPU alone: what does not fit on one says how many it would take.",
            )
    return tuple(accelerator.gpu for accelerator in named) or GPUS


def _context(wanted: int | None, asked: "Subject") -> int:
    longest = asked.limits.max_model_len
    if wanted and wanted > longest:
        raise ConfigError(f"--context is {wanted}, and a sequence has at most max_model_len = {longest} tokens")
    return wanted or min(_CONTEXT, longest)


def _json(asked: "Subject", context: int, found: "list[Estimate]") -> dict[str, Any]:
    """Sizes in bytes, speeds in tokens a second; null for what is not known or does not apply."""
    precision = asked.precision.quantization
    return {
        "source": asked.source,
        "revision": asked.revision,
        "architecture": asked.architecture,
        "parameters": asked.parameters,
        "dtype": asked.precision.dtype,
        "quantization": precision and precision.scheme,
        "group_size": precision and precision.group_size,
        "max_model_len": asked.limits.max_model_len,
        "context": context,
        "weight_bytes": found[0].memory.weights,
        "kv_bytes_per_token": found[0].memory.token,
        "note": f"{_BOUND} {_ALONE}",
        "gpus": [_row(each) for each in found],
    }


def _row(each: "Estimate") -> dict[str, Any]:
    memory = each.memory
    return {
        "gpu": each.gpu.name,
        "compute_capability": each.gpu.compute_capability,
        "memory_bytes": memory.total,
        "runs": each.speed is not None,
        "reason": each.refusal or each.misfit,
        "fits": memory.fits,
        "gpus_needed": memory.gpus,
        "bytes_left": memory.left,
        "kv_cache_tokens": memory.tokens,
        "sequences": memory.sequences(memory.longest),
        "speed": asdict(each.speed) if each.speed else None,
    }


def _print(asked: "Subject", context: int, found: "list[Estimate]") -> None:
    from rich.console import Console

    terminal = Console(highlight=False)
    console = terminal if terminal.is_terminal else Console(highlight=False, width=120)
    console.print(" ".join(_facts(asked, found[0])), markup=False)
    if running := [each for each in found if each.speed]:
        console.print(_table(running))
        console.print(" ".join(_notes(asked, context, running)), style="dim", markup=False)
    if refused := [each for each in found if not each.speed]:
        console.print(_refusals(refused))
    if any(each.misfit for each in found):
        console.print(_ALONE, style="dim", markup=False)


def _facts(asked: "Subject", first: "Estimate") -> Iterator[str]:
    precision = asked.precision
    yield f"{asked.architecture}, {asked.parameters / 1e6:,.0f} M parameters,"
    if quantization := precision.quantization:
        groups = f" in groups of {quantization.group_size}" if quantization.group_size else ""
        yield f"{quantization.scheme}{groups} and"
    yield f"{precision.dtype}: weights {first.memory.weights / 1e9:,.2f} GB,"
    yield f"KV cache {first.memory.token:,} bytes a token, max_model_len {asked.limits.max_model_len:,}"


def _notes(asked: "Subject", context: int, running: "list[Estimate]") -> Iterator[str]:
    yield _BOUND
    yield f"Batch, decode and prefill are for sequences of {context:,} tokens."
    yield "The batch is the largest sensible one: beyond it memory runs out, or decoding is bound by compute."
    if any(asked.model.windows):
        yield "A sliding window bounds what decoding reads, not what the KV cache keeps."
    if any(each.speed and each.speed.batch is None for each in running):
        yield "n/a: the GPU table has no rate for this arithmetic, so that decoding is bound by bandwidth alone."


def _table(running: "list[Estimate]") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("GPU", no_wrap=True)
    for name in (
        "memory\nGB",
        "left\nGB",
        "KV cache\ntokens",
        "sequences of\nmax_model_len",
        "batch,\nlimited by",
        "decode 1\ntokens/s",
        "decode batch\ntokens/s",
        "prefill\ntokens/s",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for each in running:
        table.add_row(each.gpu.name, *_cells(each))
    return table


def _cells(each: "Estimate") -> Iterator[str]:
    memory, speed = each.memory, each.speed
    yield f"{each.gpu.memory_gb}"
    yield f"{memory.left / 1e9:,.1f}"
    yield f"{memory.tokens:,}"
    yield f"{memory.sequences(memory.longest):,}"
    if speed is None:
        return
    yield f"{speed.batch:,} {speed.limited_by}" if speed.batch else "n/a"
    yield from (_number(value) for value in (speed.decode_one, speed.decode_batch, speed.prefill))


def _number(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _refusals(refused: "list[Estimate]") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("not on", "because it", box=box.SIMPLE_HEAD, pad_edge=False)
    for each in refused:
        reason = each.refusal or each.misfit or ""
        table.add_row(each.gpu.name, Text(reason.removeprefix(f"{each.gpu.name} ")))
    return table
