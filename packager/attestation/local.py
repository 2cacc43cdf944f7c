"""An image of the container engine that answers, read without running it."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tarfile import TarError

from pydantic import BaseModel, Field

from packager import progress
from packager.attestation import tree as trees
from packager.attestation.image import BASE_NAME, Base, Container, Described
from packager.attestation.tree import Tree
from packager.errors import TrtpackError
from packager.image import client as clients
from packager.image.client import Client


class _Layers(BaseModel):
    layers: tuple[str, ...] = Field(default=(), alias="Layers")


class _Image(BaseModel):
    """As much of `docker image inspect`."""

    size: int = Field(default=0, alias="Size")
    config: Container = Field(default=Container(), alias="Config")
    files: _Layers = Field(default=_Layers(), alias="RootFS")


def described(image: str) -> Described:
    """Raises TrtpackError where there is no engine, or no such image."""
    found = _inspected(clients.find(), image)
    return found.config.described(found.files.layers)


def read(image: str) -> Tree:
    """Everything in an image of any architecture: a container is created, exported and removed. Raises TrtpackError."""
    client = clients.find()
    size = _inspected(client, image).size
    with progress.task(f"Reading {image}", size) as advance, _container(client, image) as container:
        command = [client.path, "export", container]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=client.environment) as export:
            assert export.stdout and export.stderr
            try:
                found = trees.read(export.stdout, advance)
                export.stdout.read()  # what pads the tar
            except TarError as error:
                raise TrtpackError(f"cannot read {image}: {_last(export.stderr.read()) or error}") from error
            if export.wait():
                raise TrtpackError(f"cannot read {image}: {_last(export.stderr.read())}")
        return found


def base_of(image: Described, name: str | None = None) -> Base | None:
    """What an image was built on: `name`, or else what its label says, where this machine has it.

    Raises TrtpackError where `name` is not what it was built on.
    """
    wanted = name or image.labels.get(BASE_NAME)
    if wanted is None:
        return None
    try:
        layers = described(wanted).layers
    except TrtpackError:
        if name:
            raise
        return None
    if image.layers[: len(layers)] == layers:
        return Base(wanted, len(layers), read(wanted))
    if name:
        raise TrtpackError(f"the image was not built on {name}: its lowest layers are others")
    return None  # the tag has moved since


@contextmanager
def _container(client: Client, image: str) -> Iterator[str]:
    name = client.ask("create", image, "true").split()[-1]  # an image need not say what to run
    try:
        yield name
    finally:
        with suppress(TrtpackError):
            client.ask("rm", name)


def _inspected(client: Client, image: str) -> _Image:
    try:
        answer = client.ask("image", "inspect", image)
    except TrtpackError as error:
        raise TrtpackError(
            f"no image {image} on this machine ({error.message})",
            "Build it with trtpack build, or pull it; an engine's folder or a package is named by its path.",
        ) from error
    return _Image.model_validate(json.loads(answer)[0])


def _last(said: bytes) -> str:
    return (said.decode(errors="replace").strip().splitlines() or [""])[-1]
