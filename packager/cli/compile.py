"""`trtpack compile`: the checkpoint of a package becomes its engine."""

import json
import shlex
from math import prod
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, get_args

import click

from packager.cli.gpu import accelerator
from packager.errors import ConfigError
from runtime.engine.manifest import DType

if TYPE_CHECKING:
    from packager.config import Accelerator, EngineConfig, PackageConfig
    from runtime.engine.manifest import Manifest


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "--gpu", metavar="NAME", callback=accelerator, help="Instead of the accelerator in config.yaml: L4, a GKE label."
)
@click.option("--checkpoint", metavar="SRC", help="Instead of engine.checkpoint: a folder, a .gguf, hf://ORG/NAME.")
@click.option("--dtype", type=click.Choice(get_args(DType)), help="Instead of engine.dtype.")
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="Instead of DIR/engine.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def command(
    directory: Path,
    gpu: "Accelerator | None",
    checkpoint: str | None,
    dtype: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compile the checkpoint of the package in DIR into an engine.

    What to compile, and within which limits, stands under engine: in config.yaml. The engine is written beside
    DIR/engine and takes its place when it is complete; a compile that stops leaves the old one as it was.

    \b
    Example:
      trtpack compile smollm
      trtpack compile smollm --checkpoint hf://Qwen/Qwen3-0.6B --dtype float16 --out /tmp/engine
    """
    from packager.checkpoint import open_checkpoint
    from packager.compile import compile_engine
    from packager.compile.target import target
    from packager.config import load

    started = monotonic()
    package = load(directory)
    config = _engine(package, checkpoint, dtype)
    folder = out or directory / "engine"
    chosen = target(gpu or package.resources.accelerator, config.dtype)
    opened = open_checkpoint(config.checkpoint, Path() if checkpoint else directory)
    manifest = compile_engine(opened, config, folder, chosen)
    result = _summary(manifest, folder, monotonic() - started)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(
        f"{result['architecture']}, {result['parameters'] / 1e6:,.0f} M parameters, {result['dtype']}, "
        f"{result['size'] / 1e6:,.1f} MB in {result['seconds']:.1f} s: {folder}"
    )
    if out is None:
        click.echo(f"\nNext:\n  trtpack serve {shlex.quote(str(directory))}")


def _engine(package: "PackageConfig", checkpoint: str | None, dtype: str | None) -> "EngineConfig":
    from packager.config import EngineConfig

    given = package.engine.model_dump() if package.engine else {}
    changes = {"checkpoint": checkpoint, "dtype": dtype}
    given |= {key: value for key, value in changes.items() if value is not None}
    if not given.get("checkpoint", "").strip():
        raise ConfigError(
            "config.yaml names no checkpoint to compile",
            "Add one under engine:, or name it with --checkpoint hf://ORG/NAME",
        )
    return EngineConfig.model_validate(given)


def _summary(manifest: "Manifest", folder: Path, seconds: float) -> dict[str, Any]:
    """What was compiled; sizes in bytes."""
    from runtime.model import layout

    return {
        "engine": str(folder),
        "architecture": manifest.model.architecture,
        "source": manifest.model.source,
        "revision": manifest.model.revision,
        "parameters": sum(prod(shape) for _, shape in layout.weights(manifest.model.config)),
        "dtype": manifest.precision.dtype,
        "gpu": manifest.target.gpu,
        "max_model_len": manifest.limits.max_model_len,
        "size": sum(file.size for file in manifest.files.values()),
        "seconds": round(seconds, 1),
    }
