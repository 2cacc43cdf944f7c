"""`trtpack serve`: checks the package, then becomes its server."""

import os
import shlex
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import click

from packager.config import load
from packager.errors import TrtpackError
from packager.model import SUPPLIED, model_file
from packager.progress import note
from runtime.engine.device import DEVICE_VARIABLE, probe
from runtime.engine.manifest import FILE_NAME
from runtime.registry.source import SOURCE_VARIABLE


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for every one.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto takes the GPU where there is one; on the CPU every engine runs as PyTorch modules.",
)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free port.")
def command(directory: Path, host: str, device: str, port: int) -> None:
    """Serve the package in DIR on this machine, as its container does.

    An engine compiled for a GPU that is not here runs on the CPU, slower, from the same weights.

    It answers POST /v1/models/model:predict once GET /v1/models/model says it is ready. Ctrl-C lets running
    answers finish.

    \b
    Example:
      trtpack serve smollm --port 8080
    """
    config = load(directory)
    manifest = directory / "engine" / FILE_NAME
    environment = {**os.environ, **config.environment_variables}
    if config.engine and not (manifest.is_file() or config.engine.source or environment.get(SOURCE_VARIABLE)):
        hint = f"Compile the engine with: trtpack compile {shlex.quote(str(directory))}"
        raise TrtpackError(f"{manifest} does not exist", hint)
    if find_spec("uvicorn") is None:
        raise TrtpackError("the server is not installed", "pip install 'trtpack[serve]'")
    # A fresh process, so that the one that serves holds neither this tool nor transformers; -P, so that a folder
    # called runtime where it is started is not taken for ours.
    server = ["-P", "-m", "runtime.server", "--package", str(directory), "--host", host, "--port", str(port)]
    if model_file(directory, config) == SUPPLIED:
        server += ["--model", str(SUPPLIED)]
    sys.stdout.flush()
    if config.engine and (chosen := _device(device, environment)):
        environment[DEVICE_VARIABLE] = chosen
    os.execve(sys.executable, [sys.executable, *server], environment)


def _device(wanted: str, environment: Mapping[str, str]) -> str | None:
    """What the server is told; None leaves the choice to it."""
    if wanted != "auto":
        return wanted
    if environment.get(DEVICE_VARIABLE) or probe():
        return None
    note("note: no NVIDIA GPU here; serving on the CPU with PyTorch")
    return "cpu"
