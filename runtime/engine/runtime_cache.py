"""TensorRT-RTX's runtime cache: the kernels it compiled for this GPU, kept on disk from one start to the next."""

import hashlib
import logging
import os
import re
import tempfile
from pathlib import Path

from runtime.engine.bindings import RuntimeCache, RuntimeConfig

FOLDER_VARIABLE = "TRTPACK_CACHE_DIR"
log = logging.getLogger(__name__)


def folder() -> Path:
    """Where this user's caches go. Raises RuntimeError for one without a home."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path.home() / ".cache" / "trtpack")


def place(plans: list[str], gpu: str, driver: str, version: str) -> Path | None:
    """The file for an engine with plans of these sha256, on that GPU; None where there is nowhere to keep it.

    TensorRT-RTX refuses a cache of another GPU, driver or version itself; the name keeps them from taking turns.
    """
    try:
        parent = folder()
    except RuntimeError:
        log.warning("Compiled kernels are not kept: this user has no home; set %s to a folder", FOLDER_VARIABLE)
        return None
    engine = hashlib.sha256("".join(plans).encode()).hexdigest()[:16]
    parts = (engine, gpu, driver, version)
    return parent / ("_".join(re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in parts) + ".kernels")


class KernelCache:
    """One cache for all contexts of an engine, which it must outlive. What fails here is logged: it costs time only."""

    def __init__(self, path: Path | None) -> None:
        """`path` as `place` gives it."""
        self._path = path
        self._cache: RuntimeCache | None = None
        self._loaded = b""

    def attach(self, config: RuntimeConfig) -> None:
        """Has contexts of that config take their kernels from the cache and leave new ones in it."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._load(self._cache)
        if not config.set_runtime_cache(self._cache):
            log.warning("TensorRT-RTX did not take the runtime cache: kernels are compiled again at each start")

    def save(self) -> None:
        """Writes the cache beside its file, then in its place, if it holds what was not there at the start."""
        content = self._cache.serialize() if self._cache and self._path else None
        blob = b"" if content is None else bytes(content)
        if self._path is None or blob in (b"", self._loaded):
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self._path, blob)
        except OSError as error:
            log.warning("Compiled kernels are not kept: %s; set %s to a folder that takes them", error, FOLDER_VARIABLE)
            return
        self._loaded = blob
        log.info("Kept %.1f MB of compiled kernels in %s", len(blob) / 1e6, self._path)

    def _load(self, cache: RuntimeCache) -> None:
        try:
            blob = self._path.read_bytes() if self._path else b""
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("Compiled kernels cannot be read: %s", error)
            return
        if blob and cache.deserialize(blob):
            self._loaded = blob
            log.info("Took %.1f MB of compiled kernels from %s", len(blob) / 1e6, self._path)
        elif blob:
            log.warning("%s is of no use here and will be replaced: kernels are compiled again", self._path)


def _replace(path: Path, blob: bytes) -> None:
    """So that a reader finds the old file or the new one, never part of one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            file.write(blob)
            file.close()
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise
