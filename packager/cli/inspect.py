"""`trtpack inspect`: what an engine is, and whether its files are what engine.json says."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from packager import progress
from packager.errors import TrtpackError
from runtime.engine import manifest as manifests
from runtime.engine import plan
from runtime.engine.manifest import Manifest, Quality, Quantization
from runtime.engine.plan import Header
from runtime.model import layout

_UNKNOWN = "not known"


@dataclass(frozen=True)
class Plan:
    """A plan's file, its own header where that is known, and how it is not what engine.json says."""

    name: str
    size: int
    header: Header | None
    problem: str | None


@click.command()
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--checksums/--no-checksums", default=True, help="Whether to read every file through; on by default.")
@click.option("--json", "as_json", is_flag=True, help="Print engine.json, the plans' headers and problems as JSON.")
def command(engine: Path, checksums: bool, as_json: bool) -> None:
    """Show what the engine in the folder ENGINE is, and check its files.

    ENGINE may also be the package that it belongs to. Each plan's own header, which says for which GPUs and with
    which version of TensorRT-RTX it was built, and every file's size and checksum are compared with engine.json;
    what differs ends the command with 1.

    \b
    Example:
      trtpack inspect smollm
      trtpack inspect smollm/engine --json --no-checksums
    """
    folder = engine / "engine" if (engine / "config.yaml").is_file() else engine
    manifest = manifests.read(folder)
    plans = list(_plans(folder, manifest))
    # One problem a file: what a plan says of itself explains why its checksum differs.
    found = _differences(folder, manifest, checksums) | {p.name: p.problem for p in plans if p.problem}
    problems = list(found.values())
    if as_json:
        click.echo(json.dumps(_json(folder, manifest, plans, problems)))
    else:
        _print(folder, manifest, plans)
    if problems:
        raise TrtpackError("\n".join(problems))


def _plans(folder: Path, manifest: Manifest) -> Iterator[Plan]:
    for name, capability in plan.paths(manifest):
        file = folder / name
        header, size = (plan.read(file), file.stat().st_size) if file.is_file() else (None, 0)
        yield Plan(name, size, header, plan.problem(folder, manifest, name, capability))


def _differences(folder: Path, manifest: Manifest, checksums: bool) -> dict[str, str]:
    """How each file differs from its record, by its name."""
    total = sum(file.size for file in manifest.files.values())
    found: dict[str, str] = {}
    with progress.task(f"Checking {len(manifest.files)} files", total) as advance:
        for name in manifest.files:
            if problem := manifests.problem(folder, manifest, name, advance, checksum=checksums):
                found[name] = problem
    return found


def _json(folder: Path, manifest: Manifest, plans: list[Plan], problems: list[str]) -> dict[str, object]:
    told = {
        found.name: {
            "size": found.size,
            "version": found.header and found.header.version,
            "compute_capabilities": found.header and found.header.capabilities,
            "later": found.header and found.header.later,
            "problem": found.problem,
        }
        for found in plans
    }
    return {**manifest.model_dump(mode="json"), "engine": str(folder), "plans": told, "problems": problems}


def _print(folder: Path, manifest: Manifest, plans: list[Plan]) -> None:
    console = Console(highlight=False)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in _facts(folder, manifest):
        facts.add_row(name, Text(value))
    console.print(facts)
    if plans:
        console.print(_table(plans))


def _facts(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    model, backend, limits = manifest.model, manifest.backend, manifest.limits
    parameters = layout.parameters(model.config)
    yield "engine", f"{folder}, compiled by trtpack {manifest.trtpack_version}"
    yield "model", f"{model.architecture}, {parameters / 1e6:,.1f} M parameters"
    yield "source", model.source + (f" at {model.revision}" if model.revision else "")
    yield "backend", f"{backend.name} {backend.version}" + f", PyTorch {backend.torch}" * (backend.name != "torch")
    targets = ", ".join(f"{target.gpu} (compute capability {target.compute_capability})" for target in manifest.targets)
    yield "targets", targets or "any GPU, or a CPU"
    quantization = manifest.precision.quantization
    yield "precision", manifest.precision.dtype + (f", {_scheme(quantization)}" if quantization else "")
    if quantization and quantization.quality:
        yield "quality", _quality(quantization.quality)
    yield (
        "limits",
        f"{limits.max_model_len} tokens a sequence, {limits.max_batch_size} sequences a batch, "
        f"{limits.max_num_tokens} tokens a step",
    )
    if guessing := manifest.speculation:
        yield "speculation", f"{guessing.method}, {guessing.tokens} tokens a step"
    if limits.kv_cache_fraction:
        yield "KV cache", f"{limits.kv_cache_fraction:.0%} of free memory"
    if backend.name != "torch":
        yield "weights", "inside the plans" if manifest.weights == "embedded" else "inputs of the plans"
    for adapter in manifest.adapters:
        yield "adapter", f"{adapter.name}, {adapter.source}" + (f" at {adapter.revision}" if adapter.revision else "")
    yield "GPUs", str(manifest.parallelism.tensor)
    yield from _sizes(manifest)


def _scheme(quantization: Quantization) -> str:
    group = f"groups of {quantization.group_size}" if quantization.group_size else "a scale for each row"
    return f"{quantization.scheme} ({group}, {quantization.method})"


def _quality(quality: Quality) -> str:
    return (
        f"KL divergence {quality.kl:.4g} nats, perplexity {quality.perplexity:.4g} "
        f"(unquantised {quality.reference_perplexity:.4g}), on {quality.tokens} tokens of {quality.text}"
    )


def _sizes(manifest: Manifest) -> Iterator[tuple[str, str]]:
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for name, file in manifest.files.items():
        folder = name.partition("/")[0]
        sizes[folder] += file.size
        counts[folder] += 1
    for folder in sizes:
        yield f"{folder}/", f"{decimal(sizes[folder])} in {counts[folder]} file{'s'[: counts[folder] != 1]}"


def _table(plans: list[Plan]) -> Table:
    """Each plan as its own header tells it."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("plan", no_wrap=True)
    for name in ("size", "TensorRT-RTX", "capability", "engine.json"):
        table.add_column(name)
    for found in plans:
        verdict = Text("differs", "red") if found.problem else Text("agrees", "green") if found.header else _UNKNOWN
        version = found.header.version if found.header else _UNKNOWN
        table.add_row(found.name, decimal(found.size), version, _capabilities(found.header), verdict)
    return table


def _capabilities(header: Header | None) -> str:
    if header is None:
        return _UNKNOWN
    return ", ".join([*header.capabilities, *["later"] * header.later])
