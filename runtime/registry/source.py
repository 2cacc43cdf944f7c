"""Where an engine comes from: a folder, or a registry from which it is pulled before it is loaded."""

import logging
import os
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from runtime.engine.device import DEVICE_VARIABLE, Device, probe
from runtime.errors import RegistryError

if TYPE_CHECKING:
    from runtime.registry.jobs import Advance
    from runtime.registry.pull import Progress, Pulled

# What the folder engine/ of a package is pulled from where it is not there; the server sets it from engine.source.
SOURCE_VARIABLE = "TRTPACK_ENGINE_SOURCE"
OCI, HUB = "oci://", "hf://"
_FOLDER = Path("engine")
_SECONDS = 10.0  # between two lines of the log
log = logging.getLogger(__name__)


def is_reference(text: str) -> bool:
    """Whether it names an engine in a registry or on the Hub, and no folder."""
    return text.startswith((OCI, HUB))


def located(engine: str | Path, device: str | None = None) -> Path:
    """The folder of an engine that is named by its folder or by a reference, which is pulled for the GPU here.

    Where the working directory has no engine/, that folder is what $TRTPACK_ENGINE_SOURCE names. `device` as of LLM.
    Raises RegistryError.
    """
    if is_reference(str(engine)):
        return _pulled(str(engine), device)
    folder, source = Path(engine), os.environ.get(SOURCE_VARIABLE)
    if source and folder.resolve() == _FOLDER.resolve():
        if not folder.is_dir():
            return _pulled(source, device)
        log.info("%s is here, so %s is not pulled", folder, source)
    return folder


def pull(source: str, device: Device | None, gpu: str | None = None, *, progress: "Progress") -> "Pulled":
    """The engine that a reference names, as of runtime.registry.pull. Raises RegistryError."""
    try:
        if source.startswith(HUB):
            hub = import_module("runtime.registry.hub")
            found: Pulled = hub.pull(source, device, gpu, progress=progress)
            return found
        if not source.startswith(OCI):
            raise RegistryError(f"{source} is no engine to pull: write oci://REGISTRY/NAME:TAG or hf://ORG/NAME")
        from runtime.registry import pull
        from runtime.registry.reference import Reference

        return pull.pull(Reference.parse(source), device, gpu, progress=progress)
    except ModuleNotFoundError as error:
        raise RegistryError(
            f"{source} cannot be pulled, for {error.name} is not installed: pip install 'trtpack[pull]'"
        ) from error


def _pulled(source: str, device: str | None) -> Path:
    on_cpu = (device or os.environ.get(DEVICE_VARIABLE)) == "cpu"
    found = pull(source, None if on_cpu else probe(), progress=lambda total: _lines(source, total))
    log.info("Engine %s lies in %s", found.reference, found.folder)
    return found.folder


def _lines(source: str, total: int) -> "Advance":
    """How far it is, in the log now and then."""
    told = monotonic()
    done = begun = 0
    log.info("Pulling %s, %.1f MB", source, total / 1e6)

    def advance(amount: int) -> None:
        nonlocal done, told, begun
        done += amount
        now = monotonic()
        if now - told >= _SECONDS or done >= total:
            speed = (done - begun) / 1e6 / max(now - told, 1e-3)
            log.info(
                "Pulled %.1f of %.1f MB (%.0f%%), %.1f MB/s", done / 1e6, total / 1e6, 100 * done / max(total, 1), speed
            )
            told, begun = now, done

    return advance
