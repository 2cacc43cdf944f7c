"""Where weights come from: a Hugging Face folder, a GGUF file, the Hub."""

from pathlib import Path

from packager.checkpoint.base import Checkpoint
from packager.errors import TrtpackError

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(source: str, base: Path) -> Checkpoint:
    """Opens what `source` names: a folder or .gguf (relative to `base`), or hf://ORG/NAME[@REVISION].

    Reads headers only, no weights (hf:// downloads what is not cached). Raises TrtpackError, naming the file,
    when something is missing, truncated or not supported.
    """
    if source.startswith("hf://"):
        from packager.checkpoint.hub import open_hub

        return open_hub(source)
    if source.startswith("oci://"):
        raise TrtpackError(
            f"{source}: checkpoints from an OCI registry are not available yet",
            "Name a folder, a .gguf file or hf://ORG/NAME instead.",
        )
    if "://" in source:
        raise TrtpackError(f"{source} has an unknown scheme", "Name a folder, a .gguf file or hf://ORG/NAME instead.")
    return _local(source, base / Path(source).expanduser())


def _local(source: str, path: Path) -> Checkpoint:
    if path.is_dir():
        from packager.checkpoint.folder import FolderCheckpoint

        return FolderCheckpoint(path, source)
    if path.is_file() and path.suffix.lower() == ".gguf":
        from packager.checkpoint.gguf import GgufCheckpoint

        return GgufCheckpoint(path, source)
    if path.exists():
        raise TrtpackError(f"{path} is not a checkpoint", "Name a folder, a .gguf file or hf://ORG/NAME.")
    raise TrtpackError(f"checkpoint {path} does not exist", "Name a folder, a .gguf file or hf://ORG/NAME.")
