"""An engine as an OCI artifact: an index with a manifest for each GPU, whose layers are the engine's files as they are.

The config of each manifest is its engine.json. A file of more than PIECE bytes is cut into several layers, in order, so
that no more than a piece is sent again after a broken connection. What several engines have in common is one blob, so
the weights of a model are stored once for all GPUs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import BaseModel, ValidationError

from runtime.engine.device import Device
from runtime.errors import RegistryError
from runtime.registry import oci
from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor, ImageIndex, ImageManifest
from runtime.registry.reference import Reference

ARTIFACT = "application/vnd.trtpack.engine.v1"
CONFIG = "application/vnd.trtpack.engine.config.v1+json"
WEIGHTS = "application/vnd.trtpack.engine.weights.v1+safetensors"
PLAN = "application/vnd.trtpack.engine.plan.v1"
FILE = "application/vnd.trtpack.engine.file.v1"
# 600 GB of weights make a manifest of 3 MB, of the 4 MiB that registries take.
PIECE = 64 * 2**20
# Of a manifest and its entry in the index. The product is NVML's name of the GPU.
GPU, CAPABILITY, PRODUCT = "trtpack.gpu", "trtpack.compute-capability", "trtpack.gpu-product"
BACKEND, MODEL, REVISION = "trtpack.backend", "trtpack.model", "trtpack.revision"
# Of a layer which a CPU alone reads.
OPTIONAL = "trtpack.optional"
# Of the layers of a file that is cut: the whole file's digest, and the piece's first byte.
WHOLE, OFFSET = "trtpack.file-digest", "trtpack.file-offset"


@dataclass(frozen=True)
class Stored:
    """A file of an engine: its sha256, such as "sha256:…", and the blobs that make it up, in order.

    `optional`: the engine's GPU can do without.
    """

    digest: str
    pieces: tuple[Descriptor, ...]
    optional: bool = False

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(piece.size for piece in self.pieces)


class _Kind(BaseModel):
    """As much of any manifest as tells what it is."""

    manifests: list[object] | None = None
    config: Descriptor | None = None


def open_manifest(
    registry: Registry, device: Device | None, gpu: str | None = None
) -> tuple[Descriptor, ImageManifest]:
    """The manifest of the engine for `gpu`, a name of the GPU table, or else for `device`; for neither, of any.

    Raises RegistryError where there is nothing, no engine, or none for that GPU.
    """
    reference = registry.reference
    content = registry.manifest(reference.name)
    if content is None:
        raise RegistryError(f"{reference} is not in the registry: check its name and tag")
    kind = _kind(reference, content)
    if kind.manifests is None:
        return oci.described(content, oci.MANIFEST), _engine(reference, content)
    entry = choose(reference, read_index(reference, content).manifests, device, gpu)
    found = registry.manifest(entry.digest)
    if found is None:
        raise RegistryError(f"{reference} names {entry.digest}, which is not in the registry: push the engine again")
    return entry, _engine(reference, found)


def read_index(reference: Reference, content: bytes) -> ImageIndex:
    """An index of engines. Raises RegistryError for one of something else."""
    kind = _kind(reference, content)
    try:
        index = ImageIndex.model_validate_json(content) if kind.manifests is not None else None
    except ValidationError as error:
        raise RegistryError(f"{reference} is not an image index: {oci.reason(error)}") from error
    if index is None or index.artifact_type != ARTIFACT:
        raise _no_engine(reference)
    return index


def choose(
    reference: Reference | str, entries: Sequence[Descriptor], device: Device | None, gpu: str | None
) -> Descriptor:
    """The engine of that name; else of the device's own product, or its compute capability; else one for any GPU.

    Without both, any engine: a CPU runs them all. Raises RegistryError.
    """
    ranked = [(rank, entry) for entry in entries if (rank := _rank(entry, device, gpu)) is not None]
    if ranked:
        return min(ranked, key=lambda pair: pair[0])[1]
    listed = ", ".join(_name(entry) for entry in entries) or "no GPU"
    wanted = gpu or (f"{device.name} ({device.compute_capability})" if device else "a CPU")
    raise RegistryError(
        f"{reference} has engines for {listed}, and none for {wanted}: "
        "compile one with trtpack compile --gpu NAME, and push it to the same tag"
    )


def _rank(entry: Descriptor, device: Device | None, gpu: str | None) -> int | None:
    """How far the engine is from what was asked for; None where it does not run there."""
    capability = said(entry, CAPABILITY)
    if gpu and said(entry, GPU) == gpu:
        return 0
    if device and capability == device.compute_capability:
        return 1 if said(entry, PRODUCT) == device.name else 2
    if capability == "":
        return 3
    # PyTorch modules run on any GPU, and what they were compiled for is a matter of memory and speed.
    return 4 if said(entry, BACKEND).startswith("torch ") or (device is None and gpu is None) else None


def files(reference: Reference, manifest: ImageManifest) -> dict[str, Stored]:
    """What the layers hold, by path relative to the engine's folder.

    Raises RegistryError for a path that leads out of it, and for a file that is not whole.
    """
    pieces: dict[str, list[Descriptor]] = {}
    for layer in manifest.layers:
        pieces.setdefault(said(layer, oci.TITLE), []).append(layer)
    return {_checked(reference, name): _stored(reference, name, layers) for name, layers in pieces.items()}


def _checked(reference: Reference, name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise RegistryError(f"{reference} has a file named {name!r}, which no engine has: it is not to be trusted")
    return name


def _stored(reference: Reference, name: str, layers: list[Descriptor]) -> Stored:
    end = 0
    for layer in layers:
        if said(layer, OFFSET) != (str(end) if len(layers) > 1 else ""):
            raise RegistryError(f"{reference} does not hold all of {name}: push the engine again")
        end += layer.size
    whole = said(layers[0], WHOLE) if len(layers) > 1 else layers[0].digest
    return Stored(whole, tuple(layers), optional=said(layers[0], OPTIONAL) == "true")


def said(descriptor: Descriptor, key: str) -> str:
    """An annotation, or nothing."""
    return (descriptor.annotations or {}).get(key, "")


def _engine(reference: Reference, content: bytes) -> ImageManifest:
    kind = _kind(reference, content)
    if kind.config is None or kind.config.media_type != CONFIG:
        raise _no_engine(reference)
    try:
        return ImageManifest.model_validate_json(content)
    except ValidationError as error:
        raise RegistryError(f"{reference} is not an image manifest: {oci.reason(error)}") from error


def _kind(reference: Reference, content: bytes) -> _Kind:
    try:
        return _Kind.model_validate_json(content)
    except ValidationError as error:
        raise RegistryError(f"{reference} is neither an image manifest nor an index: {oci.reason(error)}") from error


def _no_engine(reference: Reference) -> RegistryError:
    return RegistryError(
        f"{reference} is not an engine, but an image or something else: name the tag that trtpack push --engine wrote; "
        "an image is pulled with docker pull"
    )


def _name(entry: Descriptor) -> str:
    return f"{said(entry, GPU)} ({said(entry, CAPABILITY)})" if said(entry, GPU) else "any GPU"
