"""A checkpoint on the Hugging Face Hub, downloaded into the shared cache.

huggingface_hub resumes a file whose connection broke; a later try keeps the files that arrived whole.
HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import huggingface_hub
from huggingface_hub import DryRunFileInfo, constants, errors
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import tqdm

from packager import progress
from packager.checkpoint import json_file, quantized
from packager.checkpoint.base import parse_model
from packager.checkpoint.folder import UNWANTED, WANTED, FolderCheckpoint
from packager.errors import TrtpackError
from runtime.lora.adapter import FILES

_SOURCE = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def open_hub(source: str) -> FolderCheckpoint:
    """Downloads hf://ORG/NAME[@REVISION], pinned to the commit the revision names now, and opens it.

    Asks for config.json first, so an unsupported model or quantisation costs no download. Raises TrtpackError when
    the Hub cannot be reached, has no such repository or revision, or wants a token.
    """
    config, commit = read_config(source)
    parse_model(source, config)
    quantized.recognise(source, config)
    with _explained(source):
        folder = _download(_repo(source), commit)
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
    with _explained(source):
        return _download(_repo(source), commit, FILES), commit


def _first(source: str, name: str) -> Path:
    """The file that tells what a repository is; the cache keeps each commit in snapshots/COMMIT/."""
    match = _SOURCE.fullmatch(source)
    if not match:
        raise TrtpackError(f"{source} is not a Hub checkpoint", "Write it as hf://ORG/NAME or hf://ORG/NAME@REVISION.")
    with _explained(source, name):
        path = huggingface_hub.hf_hub_download(match["repo"], name, revision=match["revision"], endpoint=_endpoint())
    return Path(path)


def _download(repo: str, commit: str, wanted: Sequence[str] = WANTED) -> Path:
    fetch = partial(
        huggingface_hub.snapshot_download,
        repo,
        revision=commit,
        endpoint=_endpoint(),
        allow_patterns=list(wanted),
        ignore_patterns=list(UNWANTED),
        tqdm_class=_bar(lambda amount: None),
    )
    planned = cast(list[DryRunFileInfo], fetch(dry_run=True))
    missing = [file.file_size or 0 for file in planned if file.will_download]
    if not missing:
        return Path(fetch())
    with progress.task(f"Downloading {repo}", sum(missing)) as advance:
        return Path(fetch(tqdm_class=_bar(advance)))


def _bar(advance: Callable[[float], None]) -> type[tqdm]:
    """The library's progress bar, shown as ours: the one that counts bytes written moves it."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            name = str(kwargs.get("name") or "")
            self._counts = kwargs.get("unit") == "B" and not name.endswith(".transfer")
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if self._counts:
                advance(n or 0)

    return Bar


@contextmanager
def _explained(source: str, name: str = "config.json") -> Iterator[None]:
    """What went wrong with the Hub, in a line, and what to do about it."""
    try:
        yield
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, ConnectionError) as error:
        # Where the cache could not help either, the library wraps the Hub's own answer.
        answer = error.__cause__ if isinstance(error.__cause__, errors.HfHubHTTPError) else error
        raise _told(source, name, answer) from error


def _told(source: str, name: str, error: Exception) -> TrtpackError:
    match error:
        case errors.GatedRepoError():
            return TrtpackError(
                f"{source} is gated: the Hub wants its terms accepted",
                f"Accept them at {_endpoint()}/{_repo(source)}, then set HF_TOKEN to your access token.",
            )
        case errors.RepositoryNotFoundError():
            return TrtpackError(
                f"{source} is not on {_endpoint()}, or is private",
                "Check its name; for a private one set HF_TOKEN to an access token that may read it.",
            )
        case errors.RevisionNotFoundError():
            return TrtpackError(f"{source}: the repository has no such revision", "Name a branch, tag or commit.")
        case errors.RemoteEntryNotFoundError():
            mend = "If it holds .gguf files, download one and name it." if name == "config.json" else None
            return TrtpackError(f"{source} has no {name}", mend)
        case errors.HfHubHTTPError():
            status = error.response.status_code
            mend = "Try again later; the files that have arrived are kept."
            if status in (401, 403):
                mend = "Set HF_TOKEN to an access token that may read it."
            return TrtpackError(f"{source}: {_endpoint()} answered HTTP {status}", mend)
        case errors.LocalEntryNotFoundError() | ConnectionError():
            return TrtpackError(
                f"{source}: cannot reach {_endpoint()}, and the checkpoint is not in the cache",
                "Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder or .gguf file.",
            )
        case _:
            return TrtpackError(
                f"{source}: the download from {_endpoint()} broke off: {error}",
                "Try again; the files that have arrived are kept.",
            )


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def _repo(source: str) -> str:
    return source.removeprefix("hf://").partition("@")[0]
