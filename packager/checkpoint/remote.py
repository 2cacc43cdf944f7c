"""A checkpoint behind a URL: https:// (a tar archive or a .gguf file), gs:// and s3:// (a folder, or a .gguf file).

What was downloaded stays in $TRTPACK_CACHE_DIR, by default ~/.cache/trtpack. A download that broke off goes on where it
stopped, or begins anew where the file has changed since.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from packager import progress
from packager.checkpoint import archive, json_file, quantized
from packager.checkpoint.base import Checkpoint, parse_model
from packager.errors import TrtpackError
from runtime.engine import runtime_cache
from runtime.engine.runtime_cache import FOLDER_VARIABLE

_RECORD = "files.json"  # written last: what lies in files/ is whole
_GGUF = b"GGUF"


@dataclass(frozen=True)
class RemoteFile:
    """`size` is in bytes; `version` changes with the content. Either is None where the server does not say.

    `read` takes an offset and yields where its chunks begin: there, or at 0. It raises TrtpackError.
    """

    name: str
    size: int | None
    version: str | None
    read: Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]


def open_remote(source: str) -> Checkpoint:
    """Downloads what is not in the cache, and opens it. Raises TrtpackError."""
    return _open(fetch(source), public(source))


def fetch(source: str) -> Path:
    """A folder with the files of a checkpoint, or of an adapter, downloaded where the cache has none.

    It is known by its URL without query and password, which are often a signature. Raises TrtpackError.
    """
    shown = public(source)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", shown.partition("://")[2]).strip("-")[-60:]
    folder = runtime_cache.folder() / "checkpoints" / f"{name}-{hashlib.sha256(shown.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with _claimed(folder, shown):
        _fetch(source, shown, folder)
    return folder / "files"


def public(source: str) -> str:
    """A URL without what may be secret in it; of an object in a bucket, nothing is."""
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https"):
        return source
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextmanager
def _claimed(folder: Path, shown: str) -> Iterator[None]:
    """Holds a lock that the kernel drops with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise TrtpackError(f"another process is downloading {shown}", "Wait for it, then try again.") from error
    finally:
        os.close(handle)


def _fetch(source: str, shown: str, folder: Path) -> None:
    """Fills `folder`/files, unless it holds these versions already."""
    record = folder / _RECORD
    try:
        remote = _listed(source, shown)
    except TrtpackError as error:
        if not record.is_file():
            raise
        progress.note(f"note: {error.message}; the copy in {folder} is used")
        return
    wanted = {file.name: [file.size, file.version] for file in remote}
    if all(file.version for file in remote) and json_file.read_optional(record) == wanted:
        return
    _download(remote, shown, folder / "partial")
    record.unlink(missing_ok=True)
    shutil.rmtree(folder / "files", ignore_errors=True)
    _settle(folder / "partial", folder / "files", remote, shown)
    json_file.write(record, wanted)


def _listed(source: str, shown: str) -> Sequence[RemoteFile]:
    if source.startswith(("http://", "https://")):
        from packager.checkpoint import web

        return [web.file(source, shown)]
    from packager.checkpoint import bucket

    return bucket.files(source)


def _download(remote: Sequence[RemoteFile], shown: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    sizes = [file.size for file in remote if file.size is not None]
    total = sum(sizes) if len(sizes) == len(remote) else None
    with progress.task(f"Downloading {shown}", total) as advance:
        for file in remote:
            try:
                _download_one(file, folder / file.name, advance)
            except OSError as error:
                raise TrtpackError(
                    f"cannot write {folder / file.name}: {error.strerror or error}",
                    f"Free some space there, or set {FOLDER_VARIABLE} to a folder on a larger disk.",
                ) from error
            if file.name == "config.json":  # it comes first: an unsupported model costs no more than it
                config = json_file.read(folder / file.name)
                parse_model(shown, config)
                quantized.recognise(shown, config)


def _download_one(file: RemoteFile, path: Path, advance: progress.Advance) -> None:
    version = path.with_name(f"{path.name}.version")
    ours = file.version and version.is_file() and version.read_text(encoding="utf-8") == file.version
    offset = path.stat().st_size if ours and path.is_file() else 0
    if offset and offset == file.size:
        advance(offset)
        return
    version.write_text(file.version or "", encoding="utf-8")
    with file.read(offset) as (start, chunks), path.open("r+b" if start else "wb") as out:
        out.seek(start)
        advance(start)
        for chunk in chunks:
            out.write(chunk)
            advance(len(chunk))
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise TrtpackError(
            f"{file.name} broke off after {size} of {file.size} bytes", "Try again; what has arrived is kept."
        )


def _settle(partial: Path, files: Path, remote: Sequence[RemoteFile], shown: str) -> None:
    """Moves what has arrived to its place; an archive is unpacked there."""
    first = partial / remote[0].name
    if len(remote) == 1 and archive.is_archive(first):
        archive.unpack(first, files, shown)
    else:
        files.mkdir()
        for file in remote:
            (partial / file.name).rename(files / file.name)
    shutil.rmtree(partial)


def _open(folder: Path, shown: str) -> Checkpoint:
    if (folder / "config.json").is_file():
        from packager.checkpoint.folder import FolderCheckpoint

        return FolderCheckpoint(folder, shown)
    only = next(folder.iterdir())
    with only.open("rb") as file:
        if file.read(len(_GGUF)) != _GGUF:
            raise TrtpackError(
                f"{shown} is neither a tar archive nor a .gguf file",
                "Name the address of the file itself, not of a page.",
            )
    from packager.checkpoint.gguf import GgufCheckpoint

    return GgufCheckpoint(only, shown)
