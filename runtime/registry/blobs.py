"""Blobs on this machine's disk, by digest: what was pulled once is not pulled again, and what broke off goes on."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import BinaryIO

from runtime.engine.runtime_cache import FOLDER_VARIABLE
from runtime.errors import RegistryError
from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor


class DamagedError(RegistryError):
    """What arrived is not what its digest says; to ask again would bring the same."""


Advance = Callable[[int], None]
_ATTEMPTS = 5
_READ = 2**20


def fetch(registry: Registry, descriptor: Descriptor, folder: Path, advance: Advance) -> Path:
    """The file in `folder` with that blob's content, pulled where it is not there yet. Raises RegistryError.

    `advance` is called with each number of bytes that are here, and with less than zero for those to be counted again.
    Another process that wants the same blob waits, and finds it.
    """
    name = descriptor.digest.replace(":", "-")
    done, partial = folder / name, folder / f"{name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    with _claimed(folder / f"{name}.lock"):
        if done.is_file():
            advance(descriptor.size)
        else:
            try:
                _pull(registry, descriptor, partial, advance)
                partial.rename(done)
            except OSError as error:
                raise _unwritable(partial, error) from error
    return done


def _pull(registry: Registry, descriptor: Descriptor, partial: Path, advance: Advance) -> None:
    """Goes on for as long as attempts bring something; after _ATTEMPTS that bring nothing it gives up."""
    idle = 0
    while True:
        before = _size(partial)
        try:
            _append(registry, descriptor, partial, advance)
            return
        except DamagedError:
            raise
        except RegistryError:
            idle = 0 if _size(partial) > before else idle + 1
            if idle >= _ATTEMPTS:
                raise
            sleep(2**idle / 4)


def _append(registry: Registry, descriptor: Descriptor, partial: Path, advance: Advance) -> None:
    """Adds what is missing at the end, then compares the sha256 of the whole."""
    with partial.open("a+b") as file:
        digest, here = _known(file, descriptor.size)
        advance(here)
        try:
            if here < descriptor.size:
                with registry.blob(descriptor, here) as (start, chunks):
                    if start != here:
                        advance(-here)
                        file.truncate(0)
                        here, digest = 0, hashlib.sha256()
                    for chunk in chunks:
                        file.write(chunk)
                        digest.update(chunk)
                        here += len(chunk)
                        advance(len(chunk))
        except RegistryError:
            advance(-here)  # the next attempt counts them again
            raise
        file.flush()
        os.fsync(file.fileno())
    if f"sha256:{digest.hexdigest()}" != descriptor.digest:
        partial.unlink()
        advance(-here)
        raise DamagedError(
            f"{registry.reference} is damaged: {descriptor.digest} came with sha256 {digest.hexdigest()}; push the "
            "engine again, or look for what changes files on their way here"
        )


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
def _claimed(lock: Path) -> Iterator[None]:
    """Waits for a lock that the kernel drops with the process that holds it."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _unwritable(path: Path, error: OSError) -> RegistryError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RegistryError(
            f"the disk of {path.parent} is full: free some space, or set {FOLDER_VARIABLE} to a folder on a larger "
            "one; what has arrived is kept"
        )
    return RegistryError(
        f"cannot write {path}: {error.strerror or error}; set {FOLDER_VARIABLE} to a folder that can be"
    )
