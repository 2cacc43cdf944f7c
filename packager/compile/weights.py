"""The engine's weights from the checkpoint's: merged, cast, written shard by shard."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from packager.checkpoint.base import Checkpoint
from packager.errors import TrtpackError
from runtime.engine.manifest import DType
from runtime.model import layout
from runtime.model.config import ModelConfig

SHARD_BYTES = 4 * 2**30
DTYPES: dict[DType, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
_TOP = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_LAYER = {
    "input_norm": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "q_norm": ("self_attn.q_norm",),
    "k_norm": ("self_attn.k_norm",),
    "o": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
# Buffers some checkpoints store beside the weights; the runtime computes them.
_BUFFERS = re.compile(r".*\.rotary_emb\.inv_freq")


@dataclass(frozen=True)
class Weight:
    """One engine tensor: the checkpoint tensors stacked into it, each with the shape it must have."""

    name: str
    parts: tuple[tuple[str, layout.Shape], ...]
    shape: layout.Shape


def plan(checkpoint: Checkpoint) -> list[Weight]:
    """Every engine tensor in layout order, checked against the checkpoint before anything is read.

    Raises TrtpackError naming the first tensor that is missing, has another shape, or has no place in the model.
    """
    model, found = checkpoint.model, dict(checkpoint.shapes)
    weights = [Weight(name, tuple(_parts(model, name, shape)), shape) for name, shape in layout.weights(model)]
    for name, shape in (part for weight in weights for part in weight.parts):
        if name not in found:
            raise TrtpackError(f"{checkpoint.source} has no tensor {name}, which {checkpoint.architecture} needs")
        if (actual := found.pop(name)) != shape:
            raise TrtpackError(f"{checkpoint.source}: {name} has shape {list(actual)}, expected {list(shape)}")
    if model.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    if extra := sorted(name for name in found if not _BUFFERS.fullmatch(name)):
        raise TrtpackError(
            f"{checkpoint.source}: {extra[0]} has no place in {checkpoint.architecture}"
            + (f" (nor have {len(extra) - 1} more)" if len(extra) > 1 else ""),
            "The checkpoint is of another model than its config says.",
        )
    return weights


def size(weights: list[Weight], dtype: DType) -> int:
    """Bytes of all weights together in that type."""
    return sum(torch.Size(weight.shape).numel() for weight in weights) * DTYPES[dtype].itemsize


def merged(checkpoint: Checkpoint, weight: Weight, dtype: DType) -> torch.Tensor:
    """One engine tensor, read and cast. Raises TrtpackError naming a tensor that `dtype` cannot hold."""
    parts = [_cast(checkpoint, name, DTYPES[dtype]) for name, _ in weight.parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Writer:
    """Cuts a stream of tensors into safetensors files of at most `shard_bytes` (or one tensor)."""

    def __init__(self, folder: Path, name: str, shard_bytes: int = SHARD_BYTES) -> None:
        """Files are called NAME-00001.safetensors and so on."""
        self._folder, self._name, self._limit = folder, name, shard_bytes
        self._tensors: dict[str, torch.Tensor] = {}
        self._used, self._number = 0, 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Keeps the tensor until its file is full."""
        if self._tensors and self._used + tensor.nbytes > self._limit:
            self.flush()
        self._tensors[name] = tensor
        self._used += tensor.nbytes

    def flush(self) -> None:
        """Writes what is kept; to be called at the end."""
        if not self._tensors:
            return
        self._number += 1
        path = self._folder / f"{self._name}-{self._number:05d}.safetensors"
        save_file(self._tensors, path)
        path.chmod(0o644)  # the library's own 0600 would lock out the image's user
        self._tensors, self._used = {}, 0


def _parts(model: ModelConfig, name: str, shape: layout.Shape) -> Iterator[tuple[str, layout.Shape]]:
    *prefix, module, kind = name.split(".")
    if not prefix:
        yield f"{_TOP[module]}.{kind}", shape
        return
    rows = {"qkv": (model.q_size, model.kv_size, model.kv_size), "gate_up": (model.intermediate_size,) * 2}
    sizes = rows.get(module, (shape[0],))
    for part, size in zip(_LAYER[module], sizes, strict=True):
        yield f"model.layers.{prefix[1]}.{part}.{kind}", (size, *shape[1:])


def _cast(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> torch.Tensor:
    tensor = checkpoint.get(name)
    cast = tensor.to(dtype).contiguous()
    if tensor.dtype != dtype and (overflow := torch.isinf(cast) & torch.isfinite(tensor)).any():
        raise TrtpackError(
            f"{checkpoint.source}: {name} holds {tensor[overflow][0].item():.4g}, "
            f"beyond the {torch.finfo(dtype).max:.4g} of {str(dtype).removeprefix('torch.')}",
            "Compile in bfloat16 or float32.",
        )
    return cast
