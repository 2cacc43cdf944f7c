"""Where weights come from: a Hugging Face folder, a GGUF file, the Hub, a web address, a bucket."""

from pathlib import Path

from packager.checkpoint.base import Checkpoint
from packager.errors import TrtpackError

__all__ = ["REMOTE", "Checkpoint", "open_checkpoint"]

REMOTE = ("http://", "https://", "gs://", "s3://")
_NAMEABLE = "Name a folder, a .gguf file, hf://ORG/NAME, gs://BUCKET/PATH, s3://BUCKET/PATH or an https:// address."


def open_checkpoint(source: str, base: Path) -> Checkpoint:
    """Opens what `source` names: a folder or .gguf (relative to `base`), hf://ORG/NAME[@REVISION], or a URL.

    Reads headers only, no weights; what is not here and not cached is downloaded. Raises TrtpackError, naming the
    file, when something is missing, truncated or not supported.
    """
    if source.startswith("hf://"):
        from packager.checkpoint.hub import open_hub

        return open_hub(source)
    if source.startswith(REMOTE):
        from packager.checkpoint.remote import open_remote

        return open_remote(source)
    if source.startswith("oci://"):
        raise TrtpackError(f"{source}: checkpoints from an OCI registry are not available yet", _NAMEABLE)
    if "://" in source:
        raise TrtpackError(f"{source} has an unknown scheme", _NAMEABLE)
    return _local(source, base / Path(source).expanduser())


def _local(source: str, path: Path) -> Checkpoint:
    if path.is_dir():
        from packager.checkpoint.folder import FolderCheckpoint

        return FolderCheckpoint(path, source)
    if path.is_file() and path.suffix.lower() == ".gguf":
        from packager.checkpoint.gguf import GgufCheckpoint

        return GgufCheckpoint(path, source)
    if path.exists():
        raise TrtpackError(f"{path} is not a checkpoint", _NAMEABLE)
    raise TrtpackError(f"checkpoint {path} does not exist", _NAMEABLE)
