"""The NVIDIA GPU that this process would use, as the driver's management library (NVML) tells it: CUDA stays unused."""

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from runtime.errors import EngineError

# "cpu" or "cuda": where an engine runs, instead of what it was compiled for.
DEVICE_VARIABLE = "TRTPACK_DEVICE"
# GKE mounts the node's driver there, where the loader does not look by itself (docs.cloud.google.com/kubernetes-engine,
# "Run GPUs in Standard node pools": about the CUDA-X libraries).
_LIBRARY = Path("/usr/local/nvidia/lib64/libnvidia-ml.so.1")
_Handle = Any


@dataclass(frozen=True)
class Device:
    """`memory`: bytes in all, of the MIG slice where the GPU is cut into slices. `driver`: such as "580.159.04"."""

    name: str
    compute_capability: str
    memory: int
    driver: str


def probe() -> Device | None:
    """The first GPU of those that CUDA_VISIBLE_DEVICES leaves; None without one, or without a driver.

    An index there counts in NVML's order, that of the PCI bus. Raises EngineError for a driver that does not answer.
    """
    try:
        _initialise()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    except pynvml.NVMLError as error:
        raise _broken(error) from error
    try:
        return _describe(os.environ.get("CUDA_VISIBLE_DEVICES"))
    except pynvml.NVMLError as error:
        raise _broken(error) from error
    finally:
        pynvml.nvmlShutdown()


def _initialise() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        # A library that is loaded already is found by its name.
        with suppress(OSError):
            ctypes.CDLL(str(_LIBRARY))
        pynvml.nvmlInit()


def _describe(visible: str | None) -> Device | None:
    gpu = _chosen(visible.partition(",")[0].strip() if visible is not None else "0")
    if gpu is None:
        return None
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(_whole(gpu))
    return Device(
        name=pynvml.nvmlDeviceGetName(gpu),
        compute_capability=f"{major}.{minor}",
        memory=pynvml.nvmlDeviceGetMemoryInfo(gpu).total,
        driver=pynvml.nvmlSystemGetDriverVersion(),
    )


def _chosen(entry: str) -> _Handle | None:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES names: an index, or a UUID or the beginning of one."""
    if entry.startswith("MIG-"):
        with suppress(pynvml.NVMLError_NotFound, pynvml.NVMLError_InvalidArgument):
            return pynvml.nvmlDeviceGetHandleByUUID(entry)
        return None
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        if entry == str(index) or (entry.startswith("GPU-") and pynvml.nvmlDeviceGetUUID(gpu).startswith(entry)):
            return _first_slice(gpu)
    return None


def _first_slice(gpu: _Handle) -> _Handle | None:
    """The GPU, or the slice that CUDA takes of one in MIG mode: there it sees none if none is made."""
    try:
        sliced = pynvml.nvmlDeviceGetMigMode(gpu)[0]
    except pynvml.NVMLError:  # no GPU before Ampere has slices
        sliced = False
    if not sliced:
        return gpu
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with suppress(pynvml.NVMLError_NotFound):
            return pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)
    return None


def _whole(gpu: _Handle) -> _Handle:
    """The GPU that a slice is part of; a GPU itself is no slice, and NVML says so with an error."""
    with suppress(pynvml.NVMLError):
        return pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(gpu)
    return gpu


def _broken(error: pynvml.NVMLError) -> EngineError:
    return EngineError(f"the NVIDIA driver of this machine does not answer ({error}): see what nvidia-smi says there")
