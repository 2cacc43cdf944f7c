"""`trtpack compile`: the checkpoint of a package becomes its engine."""

import json
import shlex
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, get_args

import click

from packager.cli.engine import engine_config, precision_options
from packager.cli.gpu import accelerators
from packager.cli.job import NAMES, check, compile_there, job_options
from packager.cli.push import check_place, push_engine
from runtime.engine.manifest import BackendName, WeightsMode

if TYPE_CHECKING:
    from packager.config import Accelerator, EngineConfig
    from runtime.engine.manifest import Manifest


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "--gpu",
    "gpus",
    metavar="NAME",
    multiple=True,
    callback=accelerators,
    help="Instead of the accelerator in config.yaml: L4, a GKE label. Several: one engine with plans for each.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", *get_args(BackendName)]),
    help="Instead of engine.backend; auto follows the GPU.",
)
@click.option("--checkpoint", metavar="SRC", help="Instead of engine.checkpoint: a folder, a .gguf, hf://ORG/NAME.")
@precision_options
@click.option(
    "--calibration", metavar="FILE", type=click.Path(path_type=Path), help="A text like what the model will read."
)
@click.option(
    "--weights",
    type=click.Choice(get_args(WeightsMode)),
    help="Weights as inputs of the plans, or inside them. By default inside where they are quantised.",
)
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="Instead of DIR/engine.")
@click.option(
    "--push", metavar="REF", help="Start the engine once, then push it: oci://REGISTRY/NAME:TAG or hf://ORG/NAME."
)
@job_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def command(
    directory: Path,
    gpus: "tuple[Accelerator, ...]",
    checkpoint: str | None,
    calibration: Path | None,
    out: Path | None,
    push: str | None,
    on_cluster: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile the checkpoint of the package in DIR into an engine.

    What to compile, and within which limits, stands under engine: in config.yaml; for which GPU, under
    resources.accelerator. The GPU need not be here: its TensorRT plans are built on any machine, except where the
    tensorrt backend must time its kernels on the GPU itself (A100, H100, H200, B200, GB200).

    The engine is written beside DIR/engine and takes its place when it is complete; a compile that stops leaves the
    old one as it was.

    --on-cluster does the same in a Kubernetes Job on a node with that GPU, which starts the engine there and pushes it.
    The Job outlives this command: called again, it follows the same one, and reads the result of one that has ended.

    \b
    Example:
      trtpack compile smollm
      trtpack compile smollm --gpu L4 --gpu RTX_PRO_6000 --quantization int8
      trtpack compile smollm --checkpoint hf://Qwen/Qwen3-0.6B --gpu T4 --dtype float16 --out /tmp/engine
      trtpack compile smollm --on-cluster --image me/smollm-compiler:1 --push oci://europe-docker.pkg.dev/me/smollm:1
    """
    there = {name: options.pop(name) for name in NAMES}
    changes = {"checkpoint": checkpoint, **options}
    check(on_cluster, push, there, {"calibration": calibration, "out": out})
    if push:
        check_place(push)
    if on_cluster:
        compile_there(directory, gpus, str(push), changes, as_json=as_json, **there)
        return
    started, folder = monotonic(), out or directory / "engine"
    manifest = _compile(directory, gpus, changes | {"calibration": calibration and str(calibration.resolve())}, folder)
    result = _summary(manifest, folder, monotonic() - started)
    if not as_json:
        click.echo(_told(result))
    if push:
        result["pushed"], told = _push(folder, push)
        if not as_json:
            click.echo(told)
    if as_json:
        click.echo(json.dumps(result))
    elif out is None and not push:
        click.echo(f"\nNext:\n  trtpack serve {shlex.quote(str(directory))}")


def _compile(directory: Path, gpus: "tuple[Accelerator, ...]", changes: dict[str, Any], folder: Path) -> "Manifest":
    from packager import progress
    from packager.checkpoint import open_checkpoint
    from packager.checkpoint.adapter import open_adapter
    from packager.compile.engine import compile_engine
    from packager.compile.target import choose, notes
    from packager.config import load
    from runtime.model import extension

    package = load(directory)
    config = engine_config(package.engine, changes)
    if config.calibration:
        config = config.model_copy(update={"calibration": str(directory / config.calibration)})
    own = package.resources.accelerator
    choice = choose(gpus or ((own,) if own else ()), config)
    for note in notes(choice, config):
        progress.note(f"note: {note}")
    if config.layers:
        extension.load(directory / config.layers)
    opened = open_checkpoint(config.checkpoint, Path() if changes["checkpoint"] else directory)
    if opened.stored:
        progress.note(f"note: {_restored(opened.source, opened.stored, config)}")
    adapters = [open_adapter(name, source, directory) for name, source in config.adapters.items()]
    guessing = config.speculation.checkpoint if config.speculation else None
    draft = open_checkpoint(guessing, directory) if guessing else None
    return compile_engine(opened, config, folder, choice, adapters=adapters, draft=draft)


def _push(folder: Path, reference: str) -> tuple[str, str]:
    """Not before it has answered. In a pod the termination message is the reference, for who waits for it."""
    from packager.compile.proof import prove
    from runtime.server import termination

    prove(folder)
    pushed, told = push_engine(folder, reference)
    termination.write(pushed)
    return pushed, told


def _restored(source: str, stored: str, config: "EngineConfig") -> str:
    """What becomes of weights that arrive quantised: plans take symmetric ones only, in our own layout."""
    told = f"{source} is stored as {stored}; dequantised to {config.dtype}"
    if config.quantization is None:
        return told
    return f"{told} and quantised again to {config.quantization}, symmetric"


def _summary(manifest: "Manifest", folder: Path, seconds: float) -> dict[str, Any]:
    """What was compiled; sizes in bytes."""
    from runtime.model import layout

    quantization = manifest.precision.quantization
    return {
        "engine": str(folder),
        "architecture": manifest.model.architecture,
        "source": manifest.model.source,
        "revision": manifest.model.revision,
        "parameters": layout.parameters(manifest.model.config),
        "backend": manifest.backend.name,
        "backend_version": manifest.backend.version,
        "dtype": manifest.precision.dtype,
        "quantization": quantization.model_dump() if quantization else None,
        "gpus": [target.gpu for target in manifest.targets],
        "weights": manifest.weights,
        "adapters": [adapter.name for adapter in manifest.adapters],
        "speculation": manifest.speculation.model_dump() if manifest.speculation else None,
        "max_model_len": manifest.limits.max_model_len,
        "size": sum(file.size for file in manifest.files.values()),
        "plans_size": sum(file.size for name, file in manifest.files.items() if name.startswith("plans/")),
        "seconds": round(seconds, 1),
    }


def _told(result: dict[str, Any]) -> str:
    precision, lines = result["dtype"], []
    if quantization := result["quantization"]:
        precision = f"{quantization['scheme']} ({quantization['method']}) and {precision}"
        if quality := quantization["quality"]:
            before, after = quality["reference_perplexity"], quality["perplexity"]
            lines.append(
                f"Quality on {quality['text']} ({quality['tokens']:,} tokens): perplexity {after:.2f}, "
                f"unquantised {before:.2f} ({after / before - 1:+.1%}); KL divergence {quality['kl']:.4f} nats a token"
            )
    where = f" for {', '.join(result['gpus'])}" if result["gpus"] else ""
    lines.append(
        f"{result['architecture']}, {result['parameters'] / 1e6:,.0f} M parameters, {precision}, {result['backend']} "
        f"{result['backend_version']}{where}, {result['size'] / 1e6:,.1f} MB in {result['seconds']:.1f} s: "
        f"{result['engine']}"
    )
    return "\n".join(lines)
