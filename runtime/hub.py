"""What reading a checkpoint, and pushing and pulling an engine, have in common on the Hugging Face Hub.

HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import huggingface_hub
from huggingface_hub import DryRunFileInfo, constants, errors
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import tqdm

from runtime.errors import RegistryError

SCHEME = "hf://"
_SOURCE = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Source:
    """A repository, and a branch, tag or commit of it where one is named."""

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Reads hf://ORG/NAME[@REVISION]; None for anything else."""
        match = _SOURCE.fullmatch(text)
        return cls(match["repo"], match["revision"]) if match else None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision else "")


class HubError(RegistryError):
    """What the Hub refused or failed at, and what to do about it: as one text, and as two."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(f"{message}: {mend[0].lower()}{mend[1:]}")
        self.message, self.mend = message, mend


class NoFileError(HubError):
    """The repository is there, and the file is not."""


def fetch(source: Source, name: str, cache: Path | None = None) -> Path:
    """One file; the cache, by default the library's own, has that of each commit in snapshots/COMMIT/.

    Raises HubError.
    """
    with explained(source):
        found = huggingface_hub.hf_hub_download(
            source.repo, name, revision=source.revision, cache_dir=cache, endpoint=endpoint()
        )
    return Path(found)


@dataclass(frozen=True)
class Snapshot:
    """Of one commit, the files that match a pattern of `wanted` and none of `unwanted`."""

    source: Source
    wanted: Sequence[str]
    unwanted: Sequence[str] = ()
    cache: Path | None = None

    def missing(self) -> int:
        """Bytes that the cache does not have; of files with the same content, each one's. Raises HubError."""
        with explained(self.source):
            planned = cast(list[DryRunFileInfo], self._download(lambda count: None, dry_run=True))
        return sum(file.file_size or 0 for file in planned if file.will_download)

    def fetch(self, advance: Callable[[int], object] = lambda count: None) -> Path:
        """The commit's folder; `advance` is called with each number of bytes that arrive. Raises HubError."""
        with explained(self.source):
            return Path(cast(str, self._download(advance)))

    def _download(self, advance: Callable[[int], object], *, dry_run: bool = False) -> str | list[DryRunFileInfo]:
        return huggingface_hub.snapshot_download(
            self.source.repo,
            revision=self.source.revision,
            endpoint=endpoint(),
            cache_dir=self.cache,
            allow_patterns=list(self.wanted),
            ignore_patterns=list(self.unwanted),
            tqdm_class=_bar(advance),
            dry_run=dry_run,
        )


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """Raises HubError for what the library raises about the Hub or the network."""
    try:
        yield
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.HTTPError, ConnectionError) as error:
        # Where the cache could not help either, the library wraps the Hub's own answer.
        answer = error.__cause__ if isinstance(error.__cause__, errors.HfHubHTTPError) else error
        raise _told(source, answer) from error


def endpoint() -> str:
    """The Hub's URL, without a slash at its end."""
    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def _told(source: Source, error: Exception) -> HubError:
    match error:
        case errors.GatedRepoError():
            return HubError(
                f"{source} is gated: the Hub wants its terms accepted",
                f"Accept them at {endpoint()}/{source.repo}, then set HF_TOKEN to your access token.",
            )
        case errors.RepositoryNotFoundError():
            return HubError(
                f"{source} is not on {endpoint()}, or is private",
                "Check its name; for a private one set HF_TOKEN to an access token that may read it.",
            )
        case errors.RevisionNotFoundError():
            return HubError(f"{source}: the repository has no such revision", "Name a branch, tag or commit.")
        case errors.RemoteEntryNotFoundError():
            return NoFileError(f"{source} lacks a file", "Check its name and revision.")
        case errors.HfHubHTTPError():
            status = error.response.status_code
            mend = "Try again later; what has arrived is kept."
            if status in (401, 403):
                mend = "Set HF_TOKEN to an access token that may do this."
            return HubError(f"{source}: {endpoint()} answered HTTP {status}", mend)
        case errors.LocalEntryNotFoundError() | ConnectionError():
            return HubError(
                f"{source}: cannot reach {endpoint()}, and it is not in the cache",
                "Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder or file on this machine.",
            )
        case _:
            return HubError(
                f"{source}: the transfer with {endpoint()} broke off: {error}",
                "Try again; what has arrived is kept.",
            )


def _bar(advance: Callable[[int], object]) -> type[tqdm]:
    """The library's progress bar, shown as ours: the one that counts bytes written moves it."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            name = str(kwargs.get("name") or "")
            self._counts = kwargs.get("unit") == "B" and not name.endswith(".transfer")
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if self._counts:
                advance(int(n or 0))

    return Bar
