"""From a reference to an engine's folder on this machine: the one for its GPU, whole, checked and kept."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runtime.engine import manifest as manifests
from runtime.engine import runtime_cache
from runtime.engine.device import Device
from runtime.errors import RegistryError
from runtime.registry import artifact, blobs, jobs
from runtime.registry.artifact import Stored
from runtime.registry.client import Registry, UnavailableError
from runtime.registry.jobs import Advance
from runtime.registry.oci import ImageManifest
from runtime.registry.reference import Reference

# Told how many bytes there are in all, gives what is to be called with each number of them that are here.
Progress = Callable[[int], Advance]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pulled:
    """`reference` names what was pulled for good: in a registry the manifest by its digest."""

    reference: str
    folder: Path


def pull(
    reference: Reference,
    device: Device | None,
    gpu: str | None = None,
    *,
    cache: Path | None = None,
    progress: Progress = lambda total: lambda count: None,
) -> Pulled:
    """The engine for `gpu`, a name of the GPU table, or else for `device`; without both, with all that a CPU needs.

    It lies in `cache`, by default $TRTPACK_CACHE_DIR. Where the registry cannot be reached, what the reference was the
    last time is taken from there. Raises RegistryError.
    """
    cache = cache or cache_folder()
    known = _Known(cache, reference, device, gpu)
    if reference.digest and (found := known.read()):
        return found
    try:
        with Registry(reference) as registry:
            found = _pull(registry, device, gpu, cache, progress)
    except UnavailableError as error:
        found = known.read()
        if found is None:
            raise
        log.warning("%s. Going on with %s, which was pulled before", error, found.reference)
        return found
    known.write(found)
    return found


def cache_folder() -> Path:
    """Where engines are kept. Raises RegistryError where there is no such place."""
    try:
        return runtime_cache.folder()
    except RuntimeError as error:
        raise RegistryError(
            f"this user has no home to keep an engine in: set {runtime_cache.FOLDER_VARIABLE} to a folder"
        ) from error


def _pull(registry: Registry, device: Device | None, gpu: str | None, cache: Path, progress: Progress) -> Pulled:
    entry, manifest = artifact.open_manifest(registry, device, gpu)
    everything = device is None and gpu is None
    stored = artifact.files(registry.reference, manifest)
    wanted = {name: file for name, file in stored.items() if everything or not file.optional}
    listed = [manifest.config.digest, *sorted(f"{name} {file.digest}" for name, file in wanted.items())]
    folder = cache / "engines" / hashlib.sha256("\n".join(listed).encode()).hexdigest()[:32]
    if not _is_whole(folder):
        _fill(registry, manifest, wanted, cache, folder, progress)
    return Pulled(str(registry.reference.at(entry.digest)), folder)


def _fill(
    registry: Registry,
    manifest: ImageManifest,
    wanted: Mapping[str, Stored],
    cache: Path,
    folder: Path,
    progress: Progress,
) -> None:
    """Makes the folder, all of it or nothing. Another process that wants it waits, and finds it."""
    content = registry.small_blob(manifest.config)
    unique = {file.digest: file for file in wanted.values()}
    fetching = [partial(blobs.fetch, registry, file, cache / "blobs") for file in unique.values()]
    beside = folder.with_name(f"{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with blobs.claimed(folder.with_name(f"{folder.name}.lock")):
            if _is_whole(folder):
                return
            advance = progress(sum(file.size for file in unique.values()))
            paths = dict(zip(unique, jobs.run(fetching, advance), strict=True))
            shutil.rmtree(beside, ignore_errors=True)
            for name, file in wanted.items():
                link(paths[file.digest], beside / name)
            (beside / manifests.FILE_NAME).write_bytes(content)
            beside.rename(folder)
    except OSError as error:
        raise blobs.unwritable(beside, error) from error


def link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the disk has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _is_whole(folder: Path) -> bool:
    return (folder / manifests.FILE_NAME).is_file()


class _Known:
    """What a reference was the last time that it was pulled for a GPU: a file in the cache."""

    def __init__(self, cache: Path, reference: Reference, device: Device | None, gpu: str | None) -> None:
        asked = f"{reference} {gpu} {device.name if device else None} {device.compute_capability if device else None}"
        self._engines = cache / "engines"
        self._file = cache / "references" / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.json"

    def read(self) -> Pulled | None:
        """None where nothing is known, or its folder is not whole."""
        try:
            found = json.loads(self._file.read_bytes())
            pulled = Pulled(str(found["reference"]), self._engines / found["folder"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pulled if _is_whole(pulled.folder) else None

    def write(self, pulled: Pulled) -> None:
        beside = self._file.with_suffix(".partial")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with blobs.claimed(self._file.with_suffix(".lock")):
                beside.write_text(json.dumps({"reference": pulled.reference, "folder": pulled.folder.name}))
                beside.replace(self._file)
        except OSError as error:
            raise blobs.unwritable(self._file, error) from error
