"""From a reference to an engine's folder on this machine: the one for its GPU, whole, checked and kept."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from runtime.engine import manifest as manifests
from runtime.engine import runtime_cache
from runtime.engine.device import Device
from runtime.errors import RegistryError
from runtime.registry import artifact, blobs
from runtime.registry.blobs import Advance
from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor, ImageManifest
from runtime.registry.reference import Reference

# One connection does not fill a cloud machine's network.
_CONNECTIONS = 4
# Told how many bytes there are in all, gives what is to be called with each number of them that are here.
Progress = Callable[[int], Advance]


@dataclass(frozen=True)
class Pulled:
    """`reference` names what was pulled for good: in a registry the manifest by its digest."""

    reference: Reference | str
    folder: Path


def pull(
    reference: Reference,
    device: Device | None,
    gpu: str | None = None,
    *,
    cache: Path | None = None,
    progress: Progress = lambda total: lambda count: None,
) -> Pulled:
    """The engine for `gpu`, a name of the GPU table, or for `device`; without both with all that a CPU needs.

    It lies in `cache`, by default $TRTPACK_CACHE_DIR, and is taken from there where the registry cannot be reached.
    Raises RegistryError.
    """
    cache = cache or runtime_cache.folder()
    with Registry(reference) as registry:
        entry, manifest = artifact.open_manifest(registry, device, gpu)
        pinned = reference.at(entry.digest)
        everything = device is None and gpu is None
        wanted = {
            name: layer
            for name, layer in artifact.files(reference, manifest).items()
            if everything or not artifact.is_optional(layer)
        }
        whole = hashlib.sha256("\n".join([manifest.config.digest, *sorted(wanted)]).encode()).hexdigest()
        folder = cache / "engines" / whole[:32]
        if not (folder / manifests.FILE_NAME).is_file():
            _fill(registry, manifest, wanted, cache, folder, progress)
    return Pulled(pinned, folder)


def _fill(
    registry: Registry,
    manifest: ImageManifest,
    wanted: dict[str, Descriptor],
    cache: Path,
    folder: Path,
    progress: Progress,
) -> None:
    """Makes the folder, all of it or nothing."""
    content = registry.small_blob(manifest.config)
    store = cache / "blobs"
    advance = progress(sum({layer.digest: layer.size for layer in wanted.values()}.values()))
    unique = {layer.digest: layer for layer in wanted.values()}
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        done = [pool.submit(blobs.fetch, registry, layer, store, advance) for layer in unique.values()]
        try:
            paths = dict(zip(unique, (one.result() for one in done), strict=True))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            for name, layer in wanted.items():
                _link(paths[layer.digest], Path(beside, "engine", name))
            Path(beside, "engine", manifests.FILE_NAME).write_bytes(content)
            Path(beside, "engine").rename(folder)
    except OSError as error:
        if not (folder / manifests.FILE_NAME).is_file():  # another process may have been first
            raise RegistryError(f"cannot write {folder}: {error.strerror or error}") from error


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
