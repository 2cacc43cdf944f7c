"""Reading an engine's weights."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from runtime.engine.manifest import Manifest


def read(
    folder: Path, manifest: Manifest, device: torch.device, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, Tensor]:
    """The tensors whose name is `wanted`, as they are stored, each in memory of its own on `device`."""
    tensors: dict[str, Tensor] = {}
    for name in manifest.files:
        if name.startswith("weights/") and (folder / name).is_file():
            with safe_open(folder / name, framework="pt", device=str(device)) as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys() if wanted(key)}  # noqa: SIM118
    return tensors
