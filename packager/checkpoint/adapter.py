"""A LoRA adapter, from wherever checkpoints come."""

from dataclasses import dataclass
from pathlib import Path

from packager.checkpoint import REMOTE
from packager.errors import TrtpackError
from runtime.errors import EngineError
from runtime.lora.adapter import read
from runtime.model.config import ModelConfig


@dataclass(frozen=True)
class AdapterCheckpoint:
    """`folder` is PEFT's; requests choose it by `name`; `source` and `revision` as of a Checkpoint."""

    name: str
    source: str
    folder: Path
    revision: str | None = None

    def check(self, model: ModelConfig) -> None:
        """Raises TrtpackError for an adapter that is not supported, or not of this model."""
        try:
            read(self.folder, model)
        except EngineError as error:
            raise TrtpackError(f"engine.adapters.{self.name}: {error}") from error


def open_adapter(name: str, source: str, base: Path) -> AdapterCheckpoint:
    """Downloads what is not here and not cached; `source` is a folder (relative to `base`), hf://ORG/NAME, or a URL.

    Raises TrtpackError.
    """
    if source.startswith("hf://"):
        from packager.checkpoint.hub import fetch_adapter

        folder, revision = fetch_adapter(source)
        return AdapterCheckpoint(name, source, folder, revision)
    if source.startswith(REMOTE):
        from packager.checkpoint.remote import fetch, public

        return AdapterCheckpoint(name, public(source), fetch(source))
    folder = base / Path(source).expanduser()
    if "://" in source or not folder.is_dir():
        raise TrtpackError(
            f"engine.adapters.{name}: {source} is no folder",
            "Name the folder that PEFT's save_pretrained wrote, hf://ORG/NAME, gs://, s3:// or an https:// address.",
        )
    return AdapterCheckpoint(name, source, folder)
