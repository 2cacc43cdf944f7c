"""What an engine's folder is in a registry: for each of its GPUs a config, which is its engine.json, and layers."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from k8s.gpus import UnknownGpuError, find
from packager import progress
from packager.errors import TrtpackError
from runtime.engine import manifest as manifests
from runtime.engine import plan
from runtime.engine.manifest import DRAFT_FOLDER, FILE_NAME, Manifest, Target
from runtime.errors import EngineError
from runtime.registry import artifact, jobs, oci
from runtime.registry.jobs import Advance
from runtime.registry.oci import Descriptor, ImageManifest

_CHUNK = 2**20
Files = Mapping[str, tuple["Layer", ...]]


@dataclass(frozen=True)
class Layer:
    """A piece of a file, or the text of one that is made here; iterating reads its bytes."""

    descriptor: Descriptor
    source: Path | bytes
    offset: int = 0

    def __iter__(self) -> Iterator[bytes]:
        if isinstance(self.source, bytes):
            yield self.source
        else:
            yield from _read(self.source, self.offset, self.descriptor.size)


@dataclass(frozen=True)
class Variant:
    """An engine for one GPU, or for any: its engine.json and the layers beside it."""

    engine: Manifest
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str]

    @property
    def config(self) -> bytes:
        """engine.json."""
        return self.engine.dump().encode()

    def manifest(self) -> ImageManifest:
        """The same for the same engine."""
        return ImageManifest(
            artifact_type=artifact.ARTIFACT,
            config=oci.described(self.config, artifact.CONFIG),
            layers=tuple(layer.descriptor for layer in self.layers),
            annotations=dict(self.annotations),
        )


def variants(folder: Path, engine: Manifest) -> list[Variant]:
    """One for each target of the engine in `folder`; reads every file. Raises EngineError for one that is damaged."""
    draft = manifests.read(folder / DRAFT_FOLDER) if engine.has_draft else None
    files = _layers(folder, engine, draft)
    return [_variant(engine, target, draft, files) for target in engine.targets or (None,)]


def _variant(engine: Manifest, target: Target | None, draft: Manifest | None, files: Files) -> Variant:
    own = plan.variant(engine, target) if target else engine
    layers = [layer for name in sorted(own.files) for layer in files.get(name, ())]
    if draft:
        guessing = _same_target(draft, target)
        text, name = guessing.dump().encode(), f"{DRAFT_FOLDER}/{FILE_NAME}"
        layers.append(Layer(oci.described(text, artifact.FILE, {oci.TITLE: name}), text))
        layers += [layer for name in sorted(guessing.files) for layer in files.get(f"{DRAFT_FOLDER}/{name}", ())]
    return Variant(own, tuple(layers), _annotations(own, target))


def _same_target(draft: Manifest, target: Target | None) -> Manifest:
    """The draft's engine for the GPU of the other one; all of it where it runs on any."""
    wanted = target.compute_capability if target else None
    return next((plan.variant(draft, own) for own in draft.targets if own.compute_capability == wanted), draft)


def _annotations(engine: Manifest, target: Target | None) -> dict[str, str]:
    limits, precision = engine.limits, engine.precision
    said = {
        artifact.BACKEND: f"{engine.backend.name} {engine.backend.version}",
        artifact.MODEL: engine.model.source,
        artifact.REVISION: engine.model.revision or "",
        "trtpack.architecture": engine.model.architecture,
        "trtpack.dtype": precision.dtype,
        "trtpack.quantization": precision.quantization.scheme if precision.quantization else "",
        "trtpack.max-model-len": str(limits.max_model_len),
        "trtpack.max-batch-size": str(limits.max_batch_size),
        "trtpack.max-num-tokens": str(limits.max_num_tokens),
    }
    if target:
        said |= {artifact.GPU: target.gpu, artifact.CAPABILITY: target.compute_capability}
        said[artifact.PRODUCT] = _product(target.gpu)
    return {name: value for name, value in said.items() if value}


def _product(gpu: str) -> str:
    try:
        return find(gpu).nvml_name
    except UnknownGpuError as error:
        raise TrtpackError(str(error), "The engine was compiled by another version; compile it again.") from error


def _layers(folder: Path, engine: Manifest, draft: Manifest | None) -> Files:
    """The layers of every file that is there, by path relative to `folder`, once each has been compared."""
    listed = {name: (folder, engine, name) for name in engine.files}
    for name in draft.files if draft else ():
        listed[f"{DRAFT_FOLDER}/{name}"] = (folder / DRAFT_FOLDER, draft or engine, name)
    for where, of, name in listed.values():
        if text := manifests.problem(where, of, name, checksum=False):
            raise EngineError(text)
    there = {path: where / name for path, (where, _, name) in listed.items() if (where / name).is_file()}
    size = sum(file.stat().st_size for file in there.values())
    with progress.task("Reading the engine's files", size) as advance:
        cut = jobs.run([partial(_cut, path, *listed[path]) for path in there], advance)
    return dict(zip(there, cut, strict=True))


def _cut(path: str, folder: Path, engine: Manifest, name: str, advance: Advance) -> tuple[Layer, ...]:
    """The pieces of a file, which is `path` in the artifact. Raises EngineError where engine.json says otherwise."""
    expected, file = engine.files[name], folder / name
    offsets = range(0, max(expected.size, 1), artifact.PIECE)
    said = {oci.TITLE: path} | ({artifact.OPTIONAL: "true"} if expected.optional else {})
    whole, layers = hashlib.sha256(), []
    for offset in offsets:
        piece = whole if len(offsets) == 1 else hashlib.sha256()
        size = min(artifact.PIECE, expected.size - offset)
        for chunk in _read(file, offset, size):
            for digest in {whole, piece}:
                digest.update(chunk)
            advance(len(chunk))
        more = {artifact.WHOLE: f"sha256:{expected.sha256}", artifact.OFFSET: str(offset)} if len(offsets) > 1 else {}
        descriptor = Descriptor(
            media_type=_media_type(name),
            digest=f"sha256:{piece.hexdigest()}",
            size=size,
            annotations=said | more,
        )
        layers.append(Layer(descriptor, file, offset))
    if whole.hexdigest() != expected.sha256:
        raise EngineError(f"{file} has sha256 {whole.hexdigest()}, engine.json says {expected.sha256}; compile again")
    return tuple(layers)


def _media_type(name: str) -> str:
    kinds = {".safetensors": artifact.WEIGHTS, plan.SUFFIX: artifact.PLAN}
    return kinds.get(PurePosixPath(name).suffix, artifact.FILE)


def _read(file: Path, offset: int, size: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(offset)
        while size and (chunk := opened.read(min(_CHUNK, size))):
            size -= len(chunk)
            yield chunk
