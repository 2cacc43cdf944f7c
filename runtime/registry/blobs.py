"""Engines' files on this machine's disk, by digest: what was pulled is not pulled again, what broke off goes on."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import BinaryIO

from runtime.engine.runtime_cache import FOLDER_VARIABLE
from runtime.errors import RegistryError
from runtime.registry.artifact import Stored
from runtime.registry.client import Registry, UnavailableError
from runtime.registry.jobs import Advance


class DamagedError(RegistryError):
    """What arrived is not what its digest says."""


_ATTEMPTS = 5
_READ = 2**20


def fetch(registry: Registry, stored: Stored, folder: Path, advance: Advance) -> Path:
    """The file in `folder` with that content, pulled where it is not there yet. Raises RegistryError.

    `advance` is called with each number of bytes that are here, and with less than zero for those to be counted again.
    Another process that wants the same file waits, and finds it.
    """
    name = stored.digest.replace(":", "-")
    done, partial = folder / name, folder / f"{name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with claimed(folder / f"{name}.lock"):
            if done.is_file():
                advance(stored.size)
            else:
                _pull(registry, stored, partial, advance)
                partial.rename(done)
    except OSError as error:
        raise unwritable(partial, error) from error
    return done


def _pull(registry: Registry, stored: Stored, partial: Path, advance: Advance) -> None:
    """Goes on for as long as attempts bring something; after _ATTEMPTS that bring nothing it gives up."""
    idle = 0
    while True:
        before = _size(partial)
        try:
            _append(registry, stored, partial, advance)
            return
        except DamagedError:
            partial.unlink()
            if not before:
                raise
            # What an earlier attempt left may be what is damaged: once more, without.
        except UnavailableError as error:
            idle = 0 if _size(partial) > before else idle + 1
            if idle >= _ATTEMPTS:
                raise
            sleep(2**idle / 4 if error.wait is None else error.wait)


def _append(registry: Registry, stored: Stored, partial: Path, advance: Advance) -> None:
    """Adds what is missing at the end, then compares the sha256 of the whole."""
    with partial.open("a+b") as file:
        digest, here = _known(file, stored.size)
        advance(here)
        try:
            for chunk in _rest(registry, stored, here):
                file.write(chunk)
                digest.update(chunk)
                here += len(chunk)
                advance(len(chunk))
            if f"sha256:{digest.hexdigest()}" != stored.digest:
                raise DamagedError(
                    f"{registry.reference} is damaged: what should be {stored.digest} came as "
                    f"sha256:{digest.hexdigest()}; push the engine again with --replace, or look for what changes "
                    "files on their way here"
                )
        except RegistryError:
            advance(-here)  # the next attempt counts them again
            raise
        file.flush()
        os.fsync(file.fileno())


def _rest(registry: Registry, stored: Stored, here: int) -> Iterator[bytes]:
    """The content from byte `here` on, out of the pieces that hold it."""
    begin = 0
    for piece in stored.pieces:
        end = begin + piece.size
        if here < end:
            with registry.blob(piece, here - begin) as (start, chunks):
                known = here - begin - start  # a registry without ranges sends the piece from its first byte
                for chunk in chunks:
                    new = chunk[known:]
                    known -= len(chunk) - len(new)
                    here += len(new)
                    if here > end:
                        raise DamagedError(f"{registry.reference} is damaged: {piece.digest} has more bytes than told")
                    if new:
                        yield new
            if here < end:
                raise UnavailableError(f"{registry.reference.registry} ended {piece.digest} early")
        begin = end


def _known(file: BinaryIO, size: int) -> tuple["hashlib._Hash", int]:
    """The sha256 so far, and the number, of the bytes that an earlier attempt left; more than `size` are none of it."""
    file.seek(0, os.SEEK_END)
    if file.tell() > size:
        file.truncate(0)
    file.seek(0)
    digest = hashlib.sha256()
    while known := file.read(_READ):
        digest.update(known)
    return digest, file.tell()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def claimed(lock: Path) -> Iterator[None]:
    """Waits for a lock that the kernel drops with the process that holds it."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def unwritable(path: Path, error: OSError) -> RegistryError:
    """In words for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RegistryError(
            f"the disk of {path.parent} is full: free some space, or set {FOLDER_VARIABLE} to a folder on a larger "
            "one; what has arrived is kept"
        )
    return RegistryError(
        f"cannot write {path}: {error.strerror or error}; set {FOLDER_VARIABLE} to a folder that can be"
    )
