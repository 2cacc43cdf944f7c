"""Whether an engine can run here, told before a weight is read, in one message: both sides, and what mends it.

    check_start(folder, manifest, on, device, backend_version)

`on` is the torch device's type, "cuda" or "cpu"; `device` what `runtime.engine.device.probe()` found; and
`backend_version` the `__version__` of the backend's module, None where it is not installed. On a GPU the order is: a
GPU at all, its compute capability, the backend's version, the driver, memory, each plan's own header, and last every
file's size and checksum. On a CPU, where any engine runs as PyTorch modules, it is headers and files alone.
"""

import logging
from pathlib import Path

import torch

from runtime.engine import manifest as manifests
from runtime.engine import plan
from runtime.engine.device import DEVICE_VARIABLE, Device
from runtime.engine.manifest import Manifest
from runtime.errors import EngineError
from runtime.kernels.attention import KVCache
from runtime.model import layout
from runtime.phases import phase

# The oldest driver branch of each CUDA major (docs.nvidia.com/cuda/cuda-toolkit-release-notes, the table "CUDA Toolkit
# and Minimum Required Driver Version for CUDA Minor Version Compatibility").
_OLDEST_DRIVER = {12: 525, 13: 580}
_NEWEST_CUDA = max(_OLDEST_DRIVER)
_GIB = 2**30
log = logging.getLogger(__name__)


@phase("check")
def check_start(
    folder: Path,
    manifest: Manifest,
    on: str,
    device: Device | None = None,
    backend_version: str | None = None,
) -> None:
    """Raises EngineError for the first thing that keeps the engine in `folder` from running here."""
    if on == "cuda":
        check_plans(folder, manifest, check(manifest, device, backend_version).compute_capability)
    else:
        check_plans(folder, manifest)
        _check_weights_for_cpu(folder, manifest)
    manifests.verify(folder, manifest)


def check(manifest: Manifest, device: Device | None, backend_version: str | None) -> Device:
    """What engine.json says against the GPU, which it returns, and the libraries; no file is read. Raises EngineError.

    The torch backend runs on any GPU: one that the engine was not compiled for is a warning in the log.
    """
    device = _check_gpu(manifest, device)
    _check_version(manifest, backend_version)
    _check_driver(manifest, device)
    _check_memory(manifest, device)
    return device


def check_plans(folder: Path, manifest: Manifest, compute_capability: str | None = None) -> None:
    """Each plan's own header against engine.json; of all targets, or of one. Raises EngineError."""
    for name, capability in plan.paths(manifest, compute_capability):
        if text := plan.problem(folder, manifest, name, capability):
            raise EngineError(text)


def _check_gpu(manifest: Manifest, device: Device | None) -> Device:
    targets = _targets(manifest)
    if device is None:
        raise EngineError(
            f"the engine is {f'for {targets}' if targets else 'to run on a GPU'}, and this machine has no NVIDIA GPU: "
            "run it on a node with one, or try it on the CPU with trtpack serve --device cpu "
            f"(in a container: {DEVICE_VARIABLE}=cpu)"
        )
    if device.compute_capability not in {target.compute_capability for target in manifest.targets}:
        found = f"{device.name} ({device.compute_capability})"
        if manifest.backend.name != "torch":
            raise EngineError(
                f"the engine's plans are for {targets}, and this machine has {found}: run it on a node with the "
                "GPU it is for, or compile it for this one with trtpack compile --gpu NAME"
            )
        if targets:
            log.warning("The engine was compiled for %s, and runs on %s", targets, found)
    return device


def _check_version(manifest: Manifest, here: str | None) -> None:
    name, version = manifest.backend.name, manifest.backend.version
    if name != "torch" and here != version:
        found = f"{here} is installed" if here else "it is not installed"
        raise EngineError(
            f"the engine was compiled with {name} {version}, and here {found}: "
            f"pip install {name}=={version}, or compile it again"
        )


def _check_driver(manifest: Manifest, device: Device) -> None:
    cuda = _NEWEST_CUDA
    if manifest.backend.name == "torch" and torch.version.cuda:
        cuda = int(torch.version.cuda.partition(".")[0])
    oldest = _OLDEST_DRIVER.get(cuda, 0)
    if int(device.driver.partition(".")[0]) < oldest:
        raise EngineError(
            f"{device.name} has NVIDIA driver {device.driver}, and CUDA {cuda} needs {oldest} or later: "
            "update the driver of this node, or run it on a newer one"
        )


def _check_memory(manifest: Manifest, device: Device) -> None:
    """What must fit at the least: the weights and one sequence of the longest length; activations come on top."""
    config, length = manifest.model.config, manifest.limits.max_model_len
    weights = _weight_bytes(manifest, device.compute_capability)
    cache = length * KVCache.block_bytes(config, 1, getattr(torch, manifest.precision.dtype))
    if weights + cache > device.memory:
        mends = ["lower engine.max_model_len"] if weights < device.memory else []
        mends += [] if manifest.precision.quantization else ["quantise it with engine.quantization"]
        mends += ["choose a GPU with more memory"]
        raise EngineError(
            f"the engine needs {(weights + cache) / _GIB:.2f} GiB, {weights / _GIB:.2f} for its weights and "
            f"{cache / _GIB:.2f} for one sequence of max_model_len {length}, and {device.name} has "
            f"{device.memory / _GIB:.2f} GiB: {', or '.join(mends)}, and compile it again"
        )


def _weight_bytes(manifest: Manifest, compute_capability: str) -> int:
    """What the weights take on the GPU. PyTorch modules run on them dequantised."""
    if manifest.backend.name == "torch":
        itemsize: int = getattr(torch, manifest.precision.dtype).itemsize
        return layout.parameters(manifest.model.config) * itemsize
    read = {name for name, _ in plan.paths(manifest, compute_capability)}
    read |= {name for name, file in manifest.files.items() if name.endswith(".safetensors") and not file.optional}
    return sum(file.size for name, file in manifest.files.items() if name in read)


def _check_weights_for_cpu(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if name.endswith(".safetensors") and not (folder / name).is_file():
            raise EngineError(
                f"{folder / name} is missing, which a CPU needs and the engine's GPU does not: "
                "take the engine's folder as it was compiled, or compile it again"
            )


def _targets(manifest: Manifest) -> str:
    return ", ".join(f"{target.gpu} ({target.compute_capability})" for target in manifest.targets)
