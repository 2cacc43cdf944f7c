"""One adapter, read from the folder that PEFT's save_pretrained wrote."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from runtime.errors import EngineError
from runtime.lora import settings
from runtime.lora.place import Place, places
from runtime.lora.settings import Settings
from runtime.model.config import ModelConfig

WEIGHTS = "adapter_model.safetensors"
FILES = (settings.FILE_NAME, WEIGHTS)
_TENSOR = re.compile(r"base_model\.model\.(model\.layers\.(\d+)\.([\w.]+))\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Pair:
    """What a linear layer [out, in] gains: `up` [out, rank], scaled already, times `down` [rank, in]."""

    down: Tensor
    up: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Pair":
        return Pair(self.down.to(device, dtype), self.up.to(device, dtype))


_OTHER = "it is an adapter of another model, or its two files are not of one adapter"

# By layer, and the linear's name there.
Adapter = Mapping[tuple[int, str], Pair]


@dataclass(frozen=True)
class _Part:
    """`down` [rank, in] and `up` [rows, rank] of one of the projections that a linear merges."""

    place: Place
    down: Tensor
    up: Tensor


def read(folder: Path, config: ModelConfig) -> Adapter:
    """In float32, on the CPU. Raises EngineError for what is not supported, and for an adapter of another model."""
    known, stated, path = places(config), Settings.read(folder), folder / WEIGHTS
    tensors = _load(path)
    parts: dict[tuple[int, str], list[_Part]] = defaultdict(list)
    for name in tensors:
        match = _TENSOR.fullmatch(name)
        if match is None or match[3] not in known:
            raise EngineError(f"{path} holds {name}; an adapter may change {', '.join(known)}, and nothing else")
        module, layer, place = match[1], int(match[2]), known[match[3]]
        if layer >= config.num_layers:
            raise EngineError(
                f"{path} holds {name}, and the engine has {config.num_layers} layers: it is an adapter of another model"
            )
        if match[4] == "A":
            prefix, rank = name.removesuffix("A.weight"), stated.rank(module)
            down = _half(path, tensors, f"{prefix}A.weight", (rank, place.width))
            up = _half(path, tensors, f"{prefix}B.weight", (place.rows, rank))
            parts[layer, place.linear].append(_Part(place, down, up * stated.scale(module)))
        else:
            _half(path, tensors, name.removesuffix("B.weight") + "A.weight")
    return {where: _merged(several) for where, several in parts.items()}


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        pickled = path.with_suffix(".bin").is_file()
        reason = "pickled weights can run code, and are not read; save it again as safetensors" if pickled else ""
        raise EngineError(f"{path} is missing{': ' * bool(reason)}{reason}")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise EngineError(f"{path} cannot be read: {error}") from error
    if not tensors:
        raise EngineError(f"{path} holds no tensor")
    return tensors


def _half(path: Path, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int] | None = None) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise EngineError(f"{path} holds no {name}, the other half of what it holds")
    if shape and tensor.shape != shape:
        raise EngineError(f"{path}: {name} has shape {list(tensor.shape)}, expected {list(shape)}: {_OTHER}")
    return tensor.float()


def _merged(parts: list[_Part]) -> Pair:
    """One pair for all the projections of a linear: two products a layer and adapter, however many are merged."""
    rank = sum(len(part.down) for part in parts)
    up, column = torch.zeros(parts[0].place.height, rank), 0
    for part in parts:
        place, end = part.place, column + len(part.down)
        up[place.start : place.start + place.rows, column:end] = part.up
        column = end
    return Pair(torch.cat([part.down for part in parts]), up)
