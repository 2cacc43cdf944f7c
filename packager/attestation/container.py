"""An image of the container engine that answers, read without running it."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from tarfile import TarError

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from packager import progress
from packager.attestation import tree as trees
from packager.attestation.image import BASE_NAME, Base, Described
from packager.attestation.tree import Tree
from packager.errors import TrtpackError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_pascal, validate_by_name=True)


class _Config(_Part):
    labels: dict[str, str] | None = None
    working_dir: str = ""


class _Layers(_Part):
    layers: tuple[str, ...] = ()


class Image(_Part):
    """What `docker image inspect` tells: layers are the digests of their uncompressed tars, lowest first."""

    architecture: str = ""
    size: int = 0
    config: _Config = _Config()
    root_fs: _Layers = Field(default=_Layers(), alias="RootFS")

    @property
    def described(self) -> Described:
        return Described(self.config.labels or {}, self.config.working_dir, self.root_fs.layers)


def inspect(image: str) -> Image:
    """Raises TrtpackError where there is no engine, or no such image."""
    asked = _run("image", "inspect", image)
    if asked.returncode:
        raise TrtpackError(
            f"no image {image} on this machine: {_last(asked.stderr)}",
            "Build it with trtpack build, or pull it; an engine's folder or a package is named by its path.",
        )
    return Image.model_validate(json.loads(asked.stdout)[0])


def read(image: str) -> Tree:
    """Everything in an image of any architecture: a container is created, exported and removed. Raises TrtpackError."""
    with progress.task(f"Reading {image}", inspect(image).size) as advance, _container(image) as container:
        command = [_client(), "export", container]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
            assert export.stdout and export.stderr
            try:
                found = trees.read(export.stdout, advance)
                export.stdout.read()  # what pads the tar
            except TarError as error:
                raise TrtpackError(f"cannot read {image}: {_last(export.stderr.read()) or error}") from error
            if export.wait():
                raise TrtpackError(f"cannot read {image}: {_last(export.stderr.read())}")
        return found


def base_of(described: Described, name: str | None = None) -> Base | None:
    """What an image was built on: `name`, or else what its label says, where this machine has it.

    Raises TrtpackError where `name` is not what it was built on.
    """
    wanted = name or described.labels.get(BASE_NAME)
    if wanted is None or (name is None and _run("image", "inspect", wanted).returncode):
        return None
    layers = inspect(wanted).root_fs.layers
    if described.layers[: len(layers)] == layers:
        return Base(wanted, len(layers), read(wanted))
    if name:
        raise TrtpackError(f"the image was not built on {name}: its lowest layers are others")
    return None  # the tag has moved since


@contextmanager
def _container(image: str) -> Iterator[str]:
    created = _run("create", image, "true")  # an image need not say what to run
    if created.returncode:
        raise TrtpackError(f"cannot read {image}: {_last(created.stderr)}")
    name = created.stdout.decode().split()[-1]
    try:
        yield name
    finally:
        _run("rm", name)


def _run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([_client(), *arguments], capture_output=True, check=False)


def _client() -> str:
    client = shutil.which("docker") or shutil.which("podman")
    if client is None:
        raise TrtpackError("neither docker nor podman is installed", "Install one of them: it holds the image.")
    return client


def _last(said: bytes) -> str:
    return (said.decode(errors="replace").strip().splitlines() or [""])[-1]
