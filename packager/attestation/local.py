"""An image of the container engine that answers, read without running it."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tarfile import TarError

from pydantic import BaseModel, Field

from packager import progress
from packager.attestation import attached, image, provenance
from packager.attestation import tree as trees
from packager.attestation.image import BASE_NAME, BUILT_BY, Base, Container, Described
from packager.attestation.tree import Tree
from packager.errors import TrtpackError
from packager.image import client as clients
from packager.image.client import Client
from runtime.registry import oci
from runtime.registry.client import Registry
from runtime.registry.reference import Reference


class _Layers(BaseModel):
    layers: tuple[str, ...] = Field(default=(), alias="Layers")


class _Image(BaseModel):
    """As much of `docker image inspect`."""

    size: int = Field(default=0, alias="Size")
    config: Container = Field(default=Container(), alias="Config")
    files: _Layers = Field(default=_Layers(), alias="RootFS")


def attach_image(pushed: str, name: str, key: Path | None = None, *, base: str | None = None) -> None:
    """Attaches SBOM and provenance to an image that was pushed as `pushed` and is here as `name`; twice is as once.

    `pushed` is REGISTRY/NAME@DIGEST, or NAME@DIGEST of Docker Hub; `base` is what the image was built on, where its
    labels do not say it; `key` is a private key in PEM to sign with. Raises ConfigError for a key that is none,
    RegistryError for what the registry refuses, TrtpackError where `name` is another image.
    """
    with Registry(reference_of(pushed)) as registry:
        stored = attached.stored_manifest(registry, registry.reference.name)
        subject = oci.described(attached.content(registry, registry.reference.name), stored.media_type)
        found = described(name)
        if found.layers != attached.stored_image(registry, stored).layers:
            raise TrtpackError(f"{name} is not the image {subject.digest} that is in the registry", "Push it again.")
        below = base_of(found, base)
        evidence = image.evidence(found, read(name), below)
        statement = provenance.of_image(attached.name_of(registry), subject.digest, found, below, evidence)
        about = f"image built by trtpack {found.labels.get(BUILT_BY, 'of an unknown version')}"
        attached.attach(registry, subject, evidence.sbom, statement.dump(), key, about)


def described(name: str) -> Described:
    """Raises TrtpackError where there is no engine, or no such image."""
    found = _inspected(clients.find(), name)
    return found.config.described(found.files.layers)


def read(name: str) -> Tree:
    """Everything in an image of any architecture: a container is created, exported and removed. Raises TrtpackError."""
    client = clients.find()
    size = _inspected(client, name).size
    with progress.task(f"Reading {name}", size) as advance, _container(client, name) as container:
        command = [client.path, "export", container]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=client.environment) as export:
            assert export.stdout and export.stderr
            try:
                found = trees.read(export.stdout, advance)
                export.stdout.read()  # what pads the tar
            except TarError as error:
                raise TrtpackError(f"cannot read {name}: {_last(export.stderr.read()) or error}") from error
            if export.wait():
                raise TrtpackError(f"cannot read {name}: {_last(export.stderr.read())}")
        return found


def base_of(found: Described, name: str | None = None) -> Base | None:
    """What an image was built on: `name`, or else what its label says, where this machine has it.

    Raises TrtpackError where `name` is not what it was built on.
    """
    wanted = name or found.labels.get(BASE_NAME)
    if wanted is None:
        return None
    try:
        layers = described(wanted).layers
    except TrtpackError:
        if name:
            raise
        return None
    if found.layers[: len(layers)] == layers:
        return Base(wanted, len(layers), read(wanted))
    if name:
        raise TrtpackError(f"the image was not built on {name}: its lowest layers are others")
    return None  # the tag has moved since


def reference_of(pushed: str) -> Reference:
    """Docker leaves its own Hub out of names, and there "library/"."""
    first, slash, _ = pushed.partition("/")
    if "." in first or ":" in first or first == "localhost":
        return Reference.parse(pushed)
    return Reference.parse(f"docker.io/{pushed}" if slash else f"docker.io/library/{pushed}")


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
