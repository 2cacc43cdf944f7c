"""Whether the engine at hand may go into the image."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from packager import progress
from packager.config import EngineConfig, PackageConfig
from packager.errors import TrtpackError
from runtime.engine import manifest
from runtime.engine.manifest import Manifest


def checked(package: Path, config: PackageConfig) -> Manifest | None:
    """The manifest of a whole engine for the config's GPU; None where the config asks for no engine.

    Raises EngineError for a missing or damaged engine, TrtpackError for one compiled for another GPU. Other
    differences from the config are told, not refused: compile takes options that config.yaml does not hold.
    """
    if config.engine is None:
        return None
    engine = package / "engine"
    found = manifest.read(engine)
    _check_gpu(engine, found, config)
    for difference in _differences(found, config.engine):
        progress.note(f"note: {engine} was compiled with {difference}")
    with progress.task("Checking the engine's files"):
        manifest.verify(engine, found)
        if found.has_draft:
            draft = engine / manifest.DRAFT_FOLDER
            manifest.verify(draft, manifest.read(draft))
    return found


def _check_gpu(engine: Path, found: Manifest, config: PackageConfig) -> None:
    """GPUs of one compute capability run each other's plans: GKE has two labels for the same H100."""
    accelerator = config.resources.accelerator
    runs = {target.compute_capability for target in found.targets}
    if not runs or (accelerator and accelerator.gpu.compute_capability in runs):
        return
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
