"""Whether the engine at hand may go into the image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import progress
from packager.config import EngineConfig, PackageConfig
from packager.errors import TrtpackError
from runtime.engine import manifest, plan
from runtime.engine.manifest import DRAFT_FOLDER, Manifest


@dataclass(frozen=True)
class Engine:
    """What of the engine in `folder` goes into the image: the manifest for the config's GPU, and that of its draft."""

    folder: Path
    manifest: Manifest
    draft: Manifest | None = None

    @property
    def parts(self) -> dict[str, Manifest]:
        """The engine and its draft's, by folder relative to the engine's."""
        return {"": self.manifest} | ({DRAFT_FOLDER: self.draft} if self.draft else {})


def find(package: Path, config: PackageConfig) -> Engine | None:
    """The engine for the config's GPU, by its manifest; None where none goes into the image.

    Raises EngineError for a missing engine, TrtpackError for one compiled for another GPU.
    """
    if config.engine is None or config.engine.source:
        return None
    folder, draft = package / "engine", package / "engine" / DRAFT_FOLDER
    found = _for_gpu(folder, manifest.read(folder), config)
    return Engine(folder, found, _for_gpu(draft, manifest.read(draft), config) if found.has_draft else None)


def checked(package: Path, config: PackageConfig) -> Engine | None:
    """The same with every file as its manifest says. Raises EngineError for a damaged one too.

    Other differences from the config are told, not refused: compile takes options that config.yaml does not hold.
    """
    engine = find(package, config)
    if engine is None or config.engine is None:
        return None
    for difference in _differences(engine.manifest, config.engine):
        progress.note(f"note: {engine.folder} was compiled with {difference}")
    with progress.task("Checking the engine's files"):
        for part, its in engine.parts.items():
            manifest.verify(engine.folder / part, its)
    return engine


def _for_gpu(engine: Path, found: Manifest, config: PackageConfig) -> Manifest:
    """GPUs of one compute capability run each other's plans: GKE has two labels for the same H100."""
    accelerator = config.resources.accelerator
    if not found.targets:
        return found
    if accelerator:
        alike = [t for t in found.targets if t.compute_capability == accelerator.gpu.compute_capability]
        alike.sort(key=lambda target: target.gpu != accelerator.gpu.name)
        if alike:
            return plan.variant(found, alike[0])
    asked = f"asks for {accelerator.gpu.name}" if accelerator else "names no accelerator"
    raise TrtpackError(
        f"{engine} was compiled for {', '.join(target.gpu for target in found.targets)}, config.yaml {asked}",
        f"Compile it again with: trtpack compile {engine.parent}",
    )


def _differences(found: Manifest, wanted: EngineConfig) -> Iterator[str]:
    quantization, speculation = found.precision.quantization, wanted.speculation
    for name, compiled, asked in (
        ("checkpoint", found.model.source, wanted.checkpoint or found.model.source),
        ("adapters", _listed({a.name: a.source for a in found.adapters}), _listed(wanted.adapters)),
        ("dtype", found.precision.dtype, wanted.dtype),
        ("quantization", quantization.scheme if quantization else None, wanted.quantization),
        (
            "speculation",
            found.speculation.method if found.speculation else None,
            speculation.method if speculation else None,
        ),
        ("max_batch_size", found.limits.max_batch_size, wanted.max_batch_size),
        ("max_num_tokens", found.limits.max_num_tokens, wanted.max_num_tokens),
        ("max_model_len", found.limits.max_model_len, wanted.max_model_len or found.limits.max_model_len),
    ):
        if compiled != asked:
            yield f"{name} {compiled}, config.yaml says {asked}"


def _listed(adapters: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({source})" for name, source in sorted(adapters.items())) or "none"
