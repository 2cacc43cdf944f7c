"""An engine as an OCI artifact: an index with a manifest for each GPU, whose layers are the engine's files as they are.

The config of each manifest is its engine.json; a file that several engines have is one blob, so the weights of a model
are stored once for all GPUs.
"""

from collections.abc import Sequence
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
# Of a manifest's entry in the index. The product is NVML's name of the GPU.
GPU, CAPABILITY, PRODUCT = "trtpack.gpu", "trtpack.compute-capability", "trtpack.gpu-product"
BACKEND, MODEL, REVISION = "trtpack.backend", "trtpack.model", "trtpack.revision"
# Of a layer which a CPU alone reads.
OPTIONAL = "trtpack.optional"


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
        raise RegistryError(f"{reference} is not an image index: {error}") from error
    if index is None or index.artifact_type != ARTIFACT:
        raise _no_engine(reference)
    return index


def choose(
    reference: Reference | str, entries: Sequence[Descriptor], device: Device | None, gpu: str | None
) -> Descriptor:
    """By name; else of the device's own product, then of its compute capability; else one that runs on any GPU.

    Without a GPU any engine will do, for a CPU runs them all. Raises RegistryError.
    """
    if gpu:
        fitting = [entry for entry in entries if said(entry, GPU) == gpu]
    elif device:
        fitting = [entry for entry in entries if said(entry, CAPABILITY) in (device.compute_capability, "")]
        fitting.sort(key=lambda entry: (said(entry, PRODUCT) != device.name, said(entry, CAPABILITY) == ""))
    else:
        fitting = list(entries)
    if fitting:
        return fitting[0]
    listed = ", ".join(_name(entry) for entry in entries) or "no GPU"
    wanted = gpu or (f"{device.name} ({device.compute_capability})" if device else "a CPU")
    raise RegistryError(
        f"{reference} has engines for {listed}, and none for {wanted}: "
        "compile one with trtpack compile --gpu NAME, and push it to the same tag"
    )


def files(reference: Reference, manifest: ImageManifest) -> dict[str, Descriptor]:
    """The layers by path relative to the engine's folder. Raises RegistryError for a path that leads out of it."""
    named = {(layer.annotations or {}).get(oci.TITLE, ""): layer for layer in manifest.layers}
    for name in named:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise RegistryError(f"{reference} has a file named {name!r}, which no engine has: it is not to be trusted")
    return named


def is_optional(layer: Descriptor) -> bool:
    """Whether the engine's GPU can do without."""
    return said(layer, OPTIONAL) == "true"


def _engine(reference: Reference, content: bytes) -> ImageManifest:
    kind = _kind(reference, content)
    if kind.config is None or kind.config.media_type != CONFIG:
        raise _no_engine(reference)
    try:
        return ImageManifest.model_validate_json(content)
    except ValidationError as error:
        raise RegistryError(f"{reference} is not an image manifest: {error}") from error


def _kind(reference: Reference, content: bytes) -> _Kind:
    try:
        return _Kind.model_validate_json(content)
    except ValidationError as error:
        raise RegistryError(f"{reference} is neither an image manifest nor an index: {error}") from error


def _no_engine(reference: Reference) -> RegistryError:
    return RegistryError(
        f"{reference} is not an engine, but an image or something else: name the tag that trtpack push --engine wrote; "
        "an image is pulled with docker pull"
    )


def said(descriptor: Descriptor, key: str) -> str:
    """An annotation, or nothing."""
    return (descriptor.annotations or {}).get(key, "")


def _name(entry: Descriptor) -> str:
    return f"{said(entry, GPU)} ({said(entry, CAPABILITY)})" if said(entry, GPU) else "any GPU"
