"""An engine in an OCI registry. It is pushed blobs first, then manifests, what says what they are, and the tag last.

So a push that stops changes nothing that others see, and the next one finds the blobs that have arrived. How an engine
is laid out there is told in runtime.registry.artifact.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import sleep

from pydantic import ValidationError

from k8s.gpus import Gpu
from packager import progress
from packager.errors import ConfigError, TrtpackError
from packager.registry.content import Layer, Variant, variants
from runtime.engine import manifest as manifests
from runtime.engine.device import Device
from runtime.engine.manifest import Manifest, Model
from runtime.errors import RegistryError
from runtime.registry import artifact, jobs, oci
from runtime.registry.artifact import GPU, said
from runtime.registry.client import Registry
from runtime.registry.jobs import Advance
from runtime.registry.oci import Descriptor, ImageIndex
from runtime.registry.reference import Reference

Attach = Callable[[Registry, Descriptor], None]
# Of pushes to one tag at the same time, each of which may have to write again after every other.
_ROUNDS = 10
# Seconds, longer than a push takes between its reading of the tag and its writing: two small requests.
_SETTLED = 0.5


@dataclass(frozen=True)
class Pushed:
    """`reference` names the index by digest; `engines` are its entries of this push, each with its engine.json.

    `size`: bytes of all files; `sent`: of those that were not there.
    """

    reference: Reference
    engines: tuple[tuple[Descriptor, Manifest], ...]
    size: int
    sent: int


def push(folder: Path, reference: Reference, *, replace: bool = False, attach: Attach | None = None) -> Pushed:
    """Pushes the engine in `folder` to a tag, beside the engines of the same model for other GPUs that the tag has.

    `replace`: the tag is to have this engine alone, whatever it has now. `attach` is called with each manifest that
    is there, before the tag is. Raises RegistryError; EngineError for a damaged engine; TrtpackError for a tag that has
    something else; ConfigError for a reference without a tag.
    """
    if reference.tag is None or reference.digest:
        raise ConfigError(f"{reference} is no tag to push to", "Write it as oci://REGISTRY/NAME:TAG")
    engine = manifests.read(folder)
    with Registry(reference) as registry:
        if not replace:
            _kept(reference, registry.manifest(reference.tag), engine.model)  # refused before anything is read
        content = variants(folder, engine)
        size, sent = _push_layers(registry, content)
        entries = [_push_manifest(registry, each) for each in content]
        if attach:
            for entry in entries:
                attach(registry, entry)
        index = _push_index(registry, reference.tag, entries, engine.model, replace)
    engines = tuple((entry, each.engine) for entry, each in zip(entries, content, strict=True))
    return Pushed(reference.at(index), engines, size, sent)


def read(reference: Reference, gpu: Gpu | None) -> Manifest:
    """engine.json of the engine for `gpu`, or of any, at a reference; nothing else is pulled. Raises RegistryError."""
    with Registry(reference) as registry:
        _, manifest = artifact.open_manifest(registry, device(gpu) if gpu else None, gpu.name if gpu else None)
        try:
            return Manifest.model_validate_json(registry.small_blob(manifest.config))
        except ValidationError as error:
            raise RegistryError(f"{reference} was pushed by another version: {oci.reason(error)}") from error


def device(gpu: Gpu) -> Device:
    """What a machine with that GPU finds there, but for its driver."""
    return Device(gpu.nvml_name, gpu.compute_capability, gpu.memory_gb * 10**9, driver="")


def _push_layers(registry: Registry, content: list[Variant]) -> tuple[int, int]:
    """Each blob once, those that are there not at all; returns the bytes of all, and those sent."""
    layers = {layer.descriptor.digest: layer for variant in content for layer in variant.layers}
    size = sum(layer.descriptor.size for layer in layers.values())
    with progress.task(f"Pushing to {registry.reference}", size) as advance:
        sent = jobs.run([partial(_push_layer, registry, layer) for layer in layers.values()], advance)
    return size, sum(sent)


def _push_layer(registry: Registry, layer: Layer, advance: Advance) -> int:
    """Returns the bytes that had to be sent."""
    descriptor = layer.descriptor
    if registry.has(descriptor.digest):
        advance(descriptor.size)
        return 0
    registry.put_blob(descriptor, _Sending(layer, advance))
    return descriptor.size


class _Sending:
    """A layer's bytes as they are sent; sent again, they are counted again."""

    def __init__(self, layer: Layer, advance: Advance) -> None:
        self._layer, self._advance, self._sent = layer, advance, 0

    def __iter__(self) -> Iterator[bytes]:
        self._advance(-self._sent)
        self._sent = 0
        for chunk in self._layer:
            yield chunk
            self._sent += len(chunk)
            self._advance(len(chunk))


def _push_manifest(registry: Registry, variant: Variant) -> Descriptor:
    """Returns its entry for the index."""
    registry.put_small_blob(variant.config)
    manifest = variant.manifest()
    content = manifest.dump()
    entry = oci.described(content, manifest.media_type, manifest.annotations)
    registry.put_manifest(entry.digest, content, entry.media_type)
    return entry.model_copy(update={"artifact_type": manifest.artifact_type})


def _push_index(registry: Registry, tag: str, entries: list[Descriptor], model: Model, replace: bool) -> str:
    """Writes the tag, until it reads back with these entries; returns its digest.

    No registry compares before it writes. So another push, which read the tag before we wrote it, may write over it
    after: we look again when it must have, and the one whose entry is gone adds it to the other's.
    """
    for _ in range(_ROUNDS):
        there = registry.manifest(tag)
        kept = () if replace else _kept(registry.reference, there, model)
        index = _index(kept, entries)
        content = index.dump()
        if content == there:
            return oci.digest_of(content)
        registry.put_manifest(oci.digest_of(content), content, index.media_type)
        registry.put_manifest(tag, content, index.media_type)
        sleep(_SETTLED)
        replace = False
    raise RegistryError(f"{registry.reference} is written by somebody else all the time: push again, or to another tag")


def _index(kept: tuple[Descriptor, ...], entries: list[Descriptor]) -> ImageIndex:
    """One entry a GPU, the new one where there are two, in an order of their own."""
    by_gpu = {said(entry, GPU): entry for entry in (*kept, *entries)}
    return ImageIndex(artifact_type=artifact.ARTIFACT, manifests=tuple(by_gpu[gpu] for gpu in sorted(by_gpu)))


def _kept(reference: Reference, there: bytes | None, model: Model) -> tuple[Descriptor, ...]:
    """What the tag has already. Raises TrtpackError where that is anything but engines of the same model."""
    if there is None:
        return ()
    hint = "Push to another tag, or put this engine in its place with: --replace"
    try:
        entries = artifact.read_index(reference, there).manifests
    except RegistryError as error:
        raise TrtpackError(f"{reference} has an image or something else, and no engine", hint) from error
    ours = _named(model.source, model.revision or "")
    for entry in entries:
        theirs = _named(said(entry, artifact.MODEL), said(entry, artifact.REVISION))
        if theirs != ours:
            raise TrtpackError(f"{reference} has an engine of {theirs}, and this one is of {ours}", hint)
    return entries


def _named(source: str, revision: str) -> str:
    return f"{source} at {revision}" if revision else source
