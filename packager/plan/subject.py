"""What is planned: a model's shape, without its weights, in the precision and within the limits asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.checkpoint import REMOTE, json_file, open_checkpoint
from packager.checkpoint.base import parse_model
from packager.checkpoint.hub import read_config
from packager.checkpoint.remote import public
from packager.compile.limits import limits
from packager.config import EngineConfig
from packager.errors import TrtpackError
from packager.quantize import quantization
from runtime.engine.manifest import BackendName, Limits, Precision
from runtime.model import extension, layout
from runtime.model.config import ModelConfig


@dataclass(frozen=True)
class Subject:
    """`source` as the user named it, `revision` a commit where it has one; `backend` None follows the GPU."""

    source: str
    revision: str | None
    architecture: str
    model: ModelConfig
    precision: Precision
    limits: Limits
    backend: BackendName | None = None

    @property
    def parameters(self) -> int:
        """Elements of all weights, a tied embedding's once."""
        return layout.parameters(self.model)

    @property
    def in_memory(self) -> Precision:
        """What is held and computed with: the torch backend dequantises."""
        return self.precision.model_copy(update={"quantization": None}) if self.backend == "torch" else self.precision


def subject(config: EngineConfig, base: Path) -> Subject:
    """Reads a config.json and no weights; `base` is the package's folder, whose engine.layers are loaded.

    Raises TrtpackError for a checkpoint that cannot be read, EngineError for layers that cannot be loaded, ConfigError
    for a limit that the model does not allow.
    """
    if config.layers:
        extension.load(base / config.layers)
    content, revision = _read(config.checkpoint, base)
    architecture, model = parse_model(config.checkpoint, content)
    return Subject(
        source=config.checkpoint,
        revision=revision,
        architecture=architecture,
        model=model,
        precision=_precision(config),
        limits=limits(config.checkpoint, model, config),
        backend=config.backend if config.backend != "auto" else "torch" if config.adapters else None,
    )


def _read(source: str, base: Path) -> tuple[Mapping[str, Any], str | None]:
    """config.json: on the Hub, in a folder or by itself; or what a .gguf file says in its place."""
    if source.startswith("hf://"):
        return read_config(source)
    if source.startswith(REMOTE):
        raise TrtpackError(
            f"{public(source)}: to plan it, its weights would be downloaded",
            "Download its config.json alone, and name that file.",
        )
    path = base / Path(source).expanduser()
    if path.is_dir():
        return json_file.read(path / "config.json"), None
    if path.suffix == ".json":
        return json_file.read(path), None
    return open_checkpoint(source, base).config, None


def _precision(config: EngineConfig) -> Precision:
    scheme = config.quantization
    return Precision(dtype=config.dtype, quantization=quantization(scheme, config.group_size) if scheme else None)
