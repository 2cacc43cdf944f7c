"""Replacing a folder all at once: written beside, then renamed; what a killed run left is cleaned by the next."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packager.errors import TrtpackError


@contextmanager
def replaced(out: Path, marker: str, what: str) -> Iterator[Path]:
    """Yields an empty folder beside `out` which takes its place when the body ends; an error leaves `out` as it was.

    A folder without a file named `marker` in it is not `what` ("an engine"), but somebody's own, and is not replaced.
    Raises TrtpackError for that, and for another writer of the same folder.
    """
    out = out.resolve()
    partial, previous = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.previous")
    with _claimed(partial, out):
        try:
            _recover(out, previous)
            check_replaceable(out, marker, what)
            _empty(partial)
            yield partial
            _sync_tree(partial)
            _swap(partial, out, previous)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            _recover(out, previous)
            raise
    shutil.rmtree(previous, ignore_errors=True)


def write(path: Path, content: bytes) -> None:
    """Replaces a file all at once. Raises TrtpackError."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise TrtpackError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _claimed(partial: Path, out: Path) -> Iterator[None]:
    """Holds a lock on the partial folder; the kernel drops it with the process, so a killed run blocks nobody."""
    partial.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = partial.exists() and os.path.samestat(os.fstat(handle), partial.stat())
        except BlockingIOError:
            ours = False
        if not ours:
            raise TrtpackError(f"another process is writing {out}", "Wait for it, or name another folder.")
        yield
    finally:
        os.close(handle)


def _recover(out: Path, previous: Path) -> None:
    """What stopped between the two renames left the old folder aside: puts it back."""
    if previous.exists() and not out.exists():
        previous.rename(out)
    shutil.rmtree(previous, ignore_errors=True)


def check_replaceable(out: Path, marker: str, what: str) -> None:
    """Raises TrtpackError where `replaced` would, so that nothing expensive is done first."""
    if out.exists() and not (out.is_dir() and ((out / marker).is_file() or not any(out.iterdir()))):
        raise TrtpackError(f"{out} exists and is not {what}", "Move it away, or name another folder.")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _swap(partial: Path, out: Path, previous: Path) -> None:
    if out.exists():
        out.rename(previous)
    partial.rename(out)
    _sync(out.parent)


def _sync_tree(folder: Path) -> None:
    """Everything on disk before the rename: a power cut must not leave a complete name over empty files."""
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, of Python or of the safetensors library, says that no space is left."""
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "os error 28" in str(error)
