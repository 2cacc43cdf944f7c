"""Whether what is in a registry, or in an engine's folder, is what it says to be."""

import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from tarfile import TarError

from pydantic import ValidationError
from securesystemslib.signer import SSlibKey

from packager import progress
from packager.attestation import attached, blob, bom, engine, evidence, image, signature
from packager.attestation import tree as trees
from packager.attestation.check import Check, Subject, differences, verdict
from packager.attestation.document import Document
from packager.attestation.image import Base, Described
from packager.attestation.tree import Tree
from packager.errors import TrtpackError
from runtime.engine import manifest as manifests
from runtime.errors import EngineError, RegistryError
from runtime.registry import artifact, oci
from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor, ImageIndex, ImageManifest
from runtime.registry.reference import Reference

_CHUNK = 2**20
_BUILDX = "vnd.docker.reference.type"  # marks what Docker's builder adds to an index beside images


def in_registry(
    reference: Reference, *, key: Path | None = None, gpu: str | None = None, full: bool = False
) -> list[Subject]:
    """Checks every manifest under a name, or that for `gpu`; `key` is a public one, in PEM.

    With `full` every blob is pulled and hashed, and an image's files are compared with its SBOM. Raises RegistryError
    where there is nothing to check, ConfigError for a key that is none.
    """
    public = signature.public_key(key) if key else None
    with Registry(reference) as registry:
        content = registry.manifest(reference.name)
        if content is None:
            raise RegistryError(f"{reference} is not in the registry: check its name and tag")
        return [_subject(registry, entry, public, full) for entry in _entries(reference, content, gpu)]


def in_folder(folder: Path) -> Subject:
    """Checks every file of an engine on disk. Raises EngineError where there is none."""
    manifest = manifests.read(folder)
    parts = [(folder, manifest)]
    if manifest.has_draft:
        draft = folder / manifests.DRAFT_FOLDER
        parts.append((draft, manifests.read(draft)))
    total = sum(file.size for _, part in parts for file in part.files.values())
    with progress.task(f"Checking {folder}", total) as advance:
        problems = [
            problem
            for place, part in parts
            for name in part.files
            if (problem := manifests.problem(place, part, name, advance))
        ]
    count = sum(len(part.files) for _, part in parts)
    files = verdict("engine", problems, f"{bom.describe(manifest)}: {count} files")
    unsigned = Check("signature", None, "a folder bears none: what was pushed is checked in its registry")
    return Subject(str(folder), "", (files, unsigned))


def _entries(reference: Reference, content: bytes, gpu: str | None) -> list[Descriptor]:
    """At least one. What has no config is an index: neither need say in its own words what it is."""
    try:
        stored = ImageManifest.model_validate_json(content)
        return [oci.described(content, stored.media_type)]
    except ValidationError:
        pass
    try:
        index = ImageIndex.model_validate_json(content)
    except ValidationError as error:
        raise RegistryError(f"{reference} is neither an image manifest nor an index: {oci.reason(error)}") from error
    if gpu:
        return [artifact.choose(reference, index.manifests, None, gpu)]
    entries = [entry for entry in index.manifests if _BUILDX not in (entry.annotations or {})]
    if not entries:
        raise RegistryError(f"{reference} is an index of nothing: push again what it should have")
    return entries


def _subject(registry: Registry, entry: Descriptor, key: SSlibKey | None, full: bool) -> Subject:
    gpu = (entry.annotations or {}).get(artifact.GPU)
    title = f"{registry.reference.at(entry.digest)}{f' for {gpu}' if gpu else ''}"
    return Subject(title, entry.digest, tuple(_checks(registry, entry, key, full)))


def _checks(registry: Registry, entry: Descriptor, key: SSlibKey | None, full: bool) -> Iterator[Check]:
    """What cannot be read is what is wrong with it."""
    step = "manifest"
    try:
        stored = attached.stored_manifest(registry, entry.digest)
        yield Check(step, True, f"{entry.digest}, {len(stored.layers)} layers")
        step = "blobs"
        missing = _missing(registry, stored)
        size = sum(layer.size for layer in stored.layers)
        yield verdict(step, missing, f"{len(stored.layers) + 1} are there, {size:,} bytes")
        if missing:
            return
        step = "content"
        if stored.config.media_type == artifact.CONFIG:
            yield from _engine(registry, entry, stored, key, full)
        else:
            yield from _image(registry, entry, stored, key, full)
    except (RegistryError, EngineError) as error:
        yield Check(step, False, str(error))
    except TrtpackError as error:
        yield Check(step, False, error.message)


def _missing(registry: Registry, stored: ImageManifest) -> list[str]:
    found = []
    for descriptor in (stored.config, *stored.layers):
        name, size = _name(descriptor), registry.size(descriptor.digest)
        if size is None:
            found.append(f"{name} is not in the registry")
        elif size != descriptor.size:
            found.append(f"{name} has {size} bytes, the manifest says {descriptor.size}")
    return found


def _engine(
    registry: Registry, entry: Descriptor, stored: ImageManifest, key: SSlibKey | None, full: bool
) -> Iterator[Check]:
    found = engine.in_registry(registry, stored)
    said, targets = (entry.annotations or {}).get(artifact.GPU), [target.gpu for target in found.manifest.targets]
    problems = found.problems()
    if said and said not in targets:
        problems.append(f"the index says that it is for {said}, engine.json says {', '.join(targets) or 'any GPU'}")
    yield verdict("engine", problems, f"{bom.describe(found.manifest)}: {len(found.files)} files")
    if full:
        yield verdict("content", _damaged_files(registry, stored), "every file was pulled and has its digest")
    yield from evidence.check(
        attached.read(registry, entry.digest),
        entry.digest,
        key,
        lambda document: differences(document.subject.files(), found.files, "the manifest"),
        lambda statement: evidence.engine_problems(statement, found),
    )


def _image(
    registry: Registry, entry: Descriptor, stored: ImageManifest, key: SSlibKey | None, full: bool
) -> Iterator[Check]:
    described = attached.stored_image(registry, stored)
    layers: list[Tree] = []
    if full:
        yield verdict("content", _damaged_layers(registry, stored, layers), "every layer was pulled and has its digest")

    def problems(document: Document) -> list[str]:
        if document.subject.fact("layers").split() != list(described.layers):
            return ["it is the SBOM of an image with other layers"]
        return _unlike(document, described, layers) if layers else []

    read = attached.read(registry, entry.digest)
    yield from evidence.check(read, entry.digest, key, problems, lambda statement: [])


def _damaged_files(registry: Registry, stored: ImageManifest) -> list[str]:
    """Pulls every file of an engine, piece by piece."""
    found = []
    with progress.task("Pulling every file", sum(layer.size for layer in stored.layers)) as advance:
        for name, file in artifact.files(registry.reference, stored).items():
            whole = hashlib.sha256()
            for piece in file.pieces:
                with blob.opened(registry, piece, advance) as content:
                    while chunk := content.read(_CHUNK):
                        whole.update(chunk)
            if f"sha256:{whole.hexdigest()}" != file.digest:
                found.append(f"{name} ({file.digest}) came with sha256:{whole.hexdigest()}")
    return found


def _damaged_layers(registry: Registry, stored: ImageManifest, into: list[Tree]) -> list[str]:
    """Pulls every layer of an image, and adds what is in it to `into`, lowest first."""
    found = []
    with progress.task("Pulling every layer", sum(layer.size for layer in stored.layers)) as advance:
        for layer in stored.layers:
            with blob.opened(registry, layer, advance) as content:
                try:
                    into.append(trees.read(io.BufferedReader(content)))
                except (TarError, EOFError, zlib.error) as error:
                    found.append(f"{layer.digest} cannot be unpacked: {error}")
                content.drain()
            if content.digest != layer.digest:
                found.append(f"{layer.digest} came with {content.digest}")
    return found


def _unlike(document: Document, described: Described, layers: list[Tree]) -> list[str]:
    """How an image's own files tell another story than its SBOM does."""
    named = document.base()
    base = Base(*named, trees.stack(layers[: named[1]])) if named else None
    real = Document.parse(image.evidence(described, trees.stack(layers), base).sbom)
    return differences(document.listed(), real.listed(), "the image")


def _name(descriptor: Descriptor) -> str:
    title = (descriptor.annotations or {}).get(oci.TITLE)
    return f"{title} ({descriptor.digest})" if title else descriptor.digest
