"""Plans: what they are called, and what a TensorRT-RTX plan says of itself in its first 64 bytes.

No call of TensorRT-RTX reads a plan without a GPU, and the header is documented nowhere: its layout was read off the
builds of version 1.7.1, and the tests compare it with real ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from runtime.engine import manifest as manifests
from runtime.engine.manifest import Manifest, Target, WeightsMode
from runtime.model import layout
from runtime.model.config import ModelConfig
from runtime.model.layout import Segment

FOLDER = "plans"
SUFFIX = ".plan"
# Little-endian: magic, header format at 8, bytes of the whole plan at 16, version at 24, capabilities at 32.
_HEADER = Struct("<4s4xI4xQ4s4xI28x")
_MAGIC, _FORMAT = b"vtrt", 2
_CAPABILITIES = {1: "7.5", 2: "8.0", 4: "8.6", 8: "8.9", 16: "12.0", 32: "12.1"}
# Set, with all from 8.0 up, where the builder was given no target: GPUs yet to come.
_LATER = 64


@dataclass(frozen=True)
class Header:
    """`version` of TensorRT-RTX, such as "1.7.1.116"; the compute `capabilities` it runs on; `size`: all its bytes.

    `later`: it runs on GPUs newer than TensorRT-RTX as well.
    """

    version: str
    capabilities: tuple[str, ...]
    later: bool
    size: int

    def is_version(self, version: str) -> bool:
        """Whether `version` built it. The header has one byte for each part, whatever the build number grows to."""
        parts = version.split(".")
        return all(part.isdecimal() for part in parts) and self.version == ".".join(str(int(p) % 256) for p in parts)


def read(file: Path) -> Header | None:
    """The plan's header; None where its format is not known here: TensorRT's own plans, and what is no plan."""
    with file.open("rb") as opened:
        start = opened.read(_HEADER.size)
    if len(start) < _HEADER.size:
        return None
    magic, header_format, size, version, mask = _HEADER.unpack(start)
    if (magic, header_format) != (_MAGIC, _FORMAT):
        return None
    capabilities = tuple(name for bit, name in _CAPABILITIES.items() if mask & bit)
    return Header(".".join(map(str, version)), capabilities, bool(mask & _LATER), size)


def path(compute_capability: str, name: str) -> str:
    """Where a plan lies in the engine's folder: ("8.9", "middle") is plans/sm89/middle.plan."""
    return f"{FOLDER}/sm{compute_capability.replace('.', '')}/{name}{SUFFIX}"


def parts(config: ModelConfig, mode: WeightsMode) -> Iterator[tuple[str, Segment]]:
    """What plans are called, and a segment that each serves: one a kind, or with weights inside one a segment."""
    seen = set()
    for segment in layout.segments(config):
        name = segment.name if mode == "embedded" else segment.kind
        if name not in seen:
            seen.add(name)
            yield name, segment


def holds_weights(segment: Segment, mode: WeightsMode) -> bool:
    """Whether a plan has the segment's weights inside; the head's, often the embedding's as well, never are."""
    return mode == "embedded" and segment.kind != "head"


def paths(manifest: Manifest, compute_capability: str | None = None) -> Iterator[tuple[str, str]]:
    """Every plan that the engine must have, each with its compute capability; of all its targets, or of one."""
    if manifest.backend.name == "torch":
        return
    targets = dict.fromkeys(target.compute_capability for target in manifest.targets)
    for capability in targets if compute_capability is None else [compute_capability]:
        for name, _ in parts(manifest.model.config, manifest.weights):
            yield path(capability, name), capability


def variant(manifest: Manifest, target: Target) -> Manifest:
    """The engine for one of its targets alone: without the others, and without the plans that only they read."""
    kept = {name for name, _ in paths(manifest, target.compute_capability)}
    dropped = {name for name, _ in paths(manifest)} - kept
    files = {name: file for name, file in manifest.files.items() if name not in dropped}
    return manifest.model_copy(update={"targets": (target,), "files": files})


def problem(folder: Path, manifest: Manifest, name: str, compute_capability: str) -> str | None:
    """How the plan `name`, by its own header, is not what engine.json says of it, or None.

    One without the header that TensorRT-RTX writes is told by its checksum, if that differs as well.
    """
    if name not in manifest.files:
        return f"engine.json lists no {name}, and says it is for compute capability {compute_capability}; compile again"
    header = read(folder / name) if (folder / name).is_file() else None
    if header is not None:
        return _disagreement(header, manifest, name, compute_capability)
    if manifest.backend.name == "tensorrt-rtx":
        return manifests.problem(folder, manifest, name) or f"{name} is no plan of TensorRT-RTX; compile again"
    return None


def _disagreement(header: Header, manifest: Manifest, name: str, compute_capability: str) -> str | None:
    backend = manifest.backend
    if backend.name != "tensorrt-rtx" or not header.is_version(backend.version):
        said = f"{backend.name} {backend.version}"
        return f"{name} was built by tensorrt-rtx {header.version}, engine.json says {said}; compile again"
    if compute_capability not in header.capabilities:
        found = ", ".join(header.capabilities) or "none"
        return f"{name} is for compute capability {found}, engine.json says {compute_capability}; compile again"
    return None
