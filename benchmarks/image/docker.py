"""The docker command, and an image's layers as its engine and a registry tell them."""

import json
import subprocess
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor, ImageManifest
from runtime.registry.reference import Reference

_SECONDS = 3600


class _Step(BaseModel):
    """A line of a Dockerfile, as the image's config keeps it."""

    created_by: str = ""
    empty_layer: bool = False


class _Config(BaseModel):
    model_config = ConfigDict(extra="ignore")
    history: list[_Step]


@dataclass(frozen=True)
class Layer:
    """`size` unpacked, `compressed` as it is pushed and pulled, both in bytes; `of_base`: of the base image."""

    made_by: str
    digest: str
    size: int
    compressed: int
    of_base: bool


@dataclass(frozen=True)
class Pushed:
    """What an image is in a registry. `overhead`: bytes of its config and its manifest."""

    blobs: dict[str, int]
    overhead: int
    layers: list[Layer]


def docker(*command: str) -> str:
    """The command's output. Raises RuntimeError with what it complained of."""
    done = subprocess.run(["docker", *command], capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def push(tag: str, base: str | None) -> Pushed:
    """Pushes an image of this engine, and reads back what the registry has of it."""
    docker("push", "--quiet", tag)
    with Registry(Reference.parse(tag)) as registry:
        content = registry.manifest(registry.reference.name)
        if content is None:
            raise RuntimeError(f"{tag} is not in the registry")
        manifest = ImageManifest.model_validate_json(content)
        config = _Config.model_validate_json(registry.small_blob(manifest.config))
    layers = _layers(tag, manifest.layers, config.history, base)
    blobs = {layer.digest: layer.size for layer in manifest.layers}
    return Pushed(blobs, manifest.config.size + len(content), layers)


def _layers(tag: str, blobs: tuple[Descriptor, ...], steps: list[_Step], base: str | None) -> list[Layer]:
    # One size a step, the last first, empty ones too.
    sizes = docker("history", "--human=false", "--format", "{{.Size}}", tag).split()
    made = [(step, int(size)) for step, size in zip(steps, reversed(sizes), strict=True) if not step.empty_layer]
    own, others = _contents(tag), set(_contents(base)) if base else set()
    return [
        Layer(" ".join(step.created_by.split()), blob.digest, size, blob.size, content in others)
        for (step, size), blob, content in zip(made, blobs, own, strict=True)
    ]


def _contents(image: str) -> list[str]:
    """The digest of each layer, unpacked."""
    digests: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return digests
