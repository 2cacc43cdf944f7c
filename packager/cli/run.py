"""`trtpack run`: the built image on this machine, as its pods run it."""

import shlex
import signal
from collections.abc import Mapping
from pathlib import Path

import click

from packager import progress
from packager.config import load
from packager.image import client as clients
from packager.image import container as containers
from packager.image.container import Container
from runtime.engine.device import DEVICE_VARIABLE, probe


@click.command()
@click.argument("image", metavar="[DIR|IMAGE]", default=".")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free port.")
@click.option("--detach", is_flag=True, help="Leave it running, once it is ready.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto hands it the GPUs of this machine, where there are any.",
)
@click.option("--env", "variables", metavar="NAME=VALUE", multiple=True, help="As of docker run; repeatable.")
@click.option("--network", metavar="MODE", help="As of docker run.")
def command(image: str, port: int, detach: bool, device: str, variables: tuple[str, ...], network: str | None) -> None:
    """Start the image that trtpack build made of the package in DIR, or IMAGE, and wait until it is ready.

    It runs as in the cluster: as user 1000, with a root file system that it cannot write to, no capability, and a
    /tmp of its own. Ctrl-C lets running answers finish and removes the container.

    \b
    Example:
      trtpack run smollm
      trtpack run europe-docker.pkg.dev/me/models/smollm:1 --port 9000 --detach
    """
    # A plain kill takes the container along, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(image)
    reference = f"{load(folder).slug}:latest" if (folder / "config.yaml").is_file() else image
    client = clients.find()
    on_gpu = device == "cuda" or (device == "auto" and probe() is not None)
    options = _environment({} if on_gpu else {DEVICE_VARIABLE: "cpu"}, variables)
    options += ["--network", network] if network else []
    container = containers.start(client, reference, port=port, gpus="all" if on_gpu else None, options=options)
    try:
        _serve(container, reference, detach)
    except BaseException:
        _remove(container)
        raise
    if not detach:
        _remove(container)


def _serve(container: Container, image: str, detach: bool) -> None:
    with progress.task(f"Waiting for {image}"):
        container.wait(progress.note)
    click.echo(f"serving {image} at {container.url}\n\nNext:")
    click.echo(f'  trtpack predict "What is a mistral?" --url {container.url}')
    if detach:
        client = container.client.name
        click.echo(f"  {client} stop {container.name} && {client} rm {container.name}")
    else:
        click.echo("(Ctrl-C stops it)")
        container.follow(progress.note)


def _environment(given: Mapping[str, str], variables: tuple[str, ...]) -> list[str]:
    pairs = [*(f"{name}={value}" for name, value in given.items()), *variables]
    return [word for pair in pairs for word in ("--env", pair)]


def _remove(container: Container) -> None:
    with progress.task(f"Stopping {shlex.quote(container.name)}"):
        container.remove()
