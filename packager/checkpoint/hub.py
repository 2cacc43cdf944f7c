"""A checkpoint on the Hugging Face Hub, downloaded into the shared cache.

huggingface_hub resumes a file whose connection broke; a later try keeps the files that arrived whole.
HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packager import progress
from packager.checkpoint import json_file, quantized
from packager.checkpoint.base import parse_model
from packager.checkpoint.folder import UNWANTED, WANTED, FolderCheckpoint
from packager.errors import TrtpackError
from runtime import hub
from runtime.hub import HubError, NoFileError, Snapshot, Source
from runtime.lora.adapter import FILES


def open_hub(source: str) -> FolderCheckpoint:
    """Downloads hf://ORG/NAME[@REVISION], pinned to the commit the revision names now, and opens it.

    Asks for config.json first, so an unsupported model or quantisation costs no download. Raises TrtpackError when
    the Hub cannot be reached, has no such repository or revision, or wants a token.
    """
    config, commit = read_config(source)
    parse_model(source, config)
    quantized.recognise(source, config)
    folder = _download(_named(source), commit)
    if not any(folder.glob("*.safetensors")):
        raise TrtpackError(
            f"{source} holds no safetensors weights",
            "Pickled weights can run code and are not read; convert them first.",
        )
    return FolderCheckpoint(folder, source, commit)


def read_config(source: str) -> tuple[dict[str, Any], str]:
    """The contents of config.json, and the commit its revision names now; downloads no weights. Raises TrtpackError."""
    config = _first(source, "config.json")
    return json_file.read(config), config.parent.name


def fetch_adapter(source: str) -> tuple[Path, str]:
    """The folder of a LoRA adapter, and the commit its revision names now. Raises TrtpackError."""
    commit = _first(source, FILES[0]).parent.name
    return _download(_named(source), commit, FILES), commit


def _first(source: str, name: str) -> Path:
    """The file that tells what a repository is; the cache keeps each commit in snapshots/COMMIT/."""
    named = _named(source)
    with _told():
        try:
            return hub.fetch(named, name)
        except NoFileError as error:
            mend = "If it holds .gguf files, download one and name it." if name == "config.json" else None
            raise TrtpackError(f"{source} has no {name}", mend) from error


def _download(source: Source, commit: str, wanted: Sequence[str] = WANTED) -> Path:
    snapshot = Snapshot(Source(source.repo, commit), wanted, UNWANTED)
    with _told():
        missing = snapshot.missing()
        if not missing:
            return snapshot.fetch()
        with progress.task(f"Downloading {source.repo}", missing) as advance:
            return snapshot.fetch(advance)


def _named(source: str) -> Source:
    named = Source.parse(source)
    if named is None:
        raise TrtpackError(f"{source} is not a Hub checkpoint", "Write it as hf://ORG/NAME or hf://ORG/NAME@REVISION.")
    return named


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except HubError as error:
        raise TrtpackError(error.message, error.mend) from error
