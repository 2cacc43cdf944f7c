"""Quantised checkpoints for tests, packed here word by word from the formats' descriptions, and what to do with them.

A packer takes a float weight [out, in] and gives the parts that it is stored as, and the weight those stand for.
"""

import json
from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from packager.checkpoint import Checkpoint, open_checkpoint
from packager.compile import weights

Parts = dict[str, torch.Tensor]
Change = Callable[[Parts], Any]
Packer = Callable[[torch.Tensor], tuple[Parts, torch.Tensor]]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def opened(folder: Path) -> Checkpoint:
    """The checkpoint, of which everything an engine needs is there and in shape."""
    checkpoint = open_checkpoint(str(folder), Path())
    weights.plan(checkpoint)
    return checkpoint


def same(checkpoint: Checkpoint, expected: Parts) -> bool:
    """Whether it holds these tensors, bit for bit, and no others."""
    return set(checkpoint.shapes) == set(expected) and all(
        checkpoint.shapes[name] == tuple(tensor.shape) and torch.equal(checkpoint.get(name), tensor)
        for name, tensor in expected.items()
    )


def edit(folder: Path, change: Change) -> None:
    """Changes the tensors of a folder's one file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def drop(name: str) -> Change:
    return lambda tensors: tensors.pop(name)


def put(name: str, tensor: torch.Tensor) -> Change:
    return lambda tensors: tensors.update({name: tensor})


def say(folder: Path, quantization_config: Mapping[str, Any]) -> None:
    """Puts it into the folder's config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": dict(quantization_config)}))


def quantise(folder: Path, packer: Packer, said: Mapping[str, Any], *, head: bool = False) -> Parts:
    """Replaces every projection of a folder's model by what `packer` makes of it, and says so in config.json.

    Returns what each tensor of the model should now read as.
    """
    path, expected, stored = folder / "model.safetensors", Parts(), Parts()
    for name, tensor in load_file(path).items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and (module.endswith("_proj") or (head and module == "lm_head")):
            parts, expected[name] = packer(tensor)
            stored |= {f"{module}.{part}": value.contiguous() for part, value in parts.items()}
        else:
            stored[name] = expected[name] = tensor
    save_file(stored, path)
    say(folder, said)
    return expected


def rounded(
    weight: torch.Tensor, bits: int, group: torch.Tensor, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unsigned values [out, in], float16 scales and zero points [out, groups], and the weight they stand for."""
    top, count = 2**bits - 1, int(group.max()) + 1
    low, high = (
        torch.stack([extreme(weight[:, group == index], 1) for index in range(count)], 1)
        for extreme in (torch.amin, torch.amax)
    )
    low, high = low.clamp(max=0), high.clamp(min=0)
    span = 2 * torch.maximum(-low, high) if symmetric else high - low
    scale = (span / top).half()
    zero = torch.full_like(low, 2 ** (bits - 1)) if symmetric else (-low / scale.float()).round()
    values = (weight / scale.float()[:, group] + zero[:, group]).round().clamp(0, top)
    return values.int(), scale, zero.int(), (values - zero[:, group]) * scale.float()[:, group]


def words(values: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [..., n * bits / 32] of unsigned [..., n]: each word's first value in its lowest bits."""
    array, count = values.numpy().astype(np.uint32), 32 // bits
    packed = sum(array[..., index::count] << np.uint32(bits * index) for index in range(count))
    return torch.from_numpy(np.asarray(packed).astype(np.uint32).view(np.int32))


def gptq(bits: int, size: int, *, sym: bool = True, act_order: bool = False, version: int = 1) -> Packer:
    """With `act_order`, groups are of features scattered over the whole input, as sorting by activation leaves them."""

    def pack(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
        width = weight.shape[1]
        group = torch.arange(width) // (width if size == -1 else size)
        if act_order:
            group = group[torch.randperm(width, generator=torch.Generator().manual_seed(width))]
        values, scale, zero, expected = rounded(weight, bits, group, sym)
        qzeros = words(zero.t(), bits)
        if version == 1:  # as GPTQModel's convert_gptq_v2_to_v1_format_module: less one each, in one subtraction
            qzeros = qzeros - words(torch.ones_like(zero.t()), bits)
        parts = {"qweight": words(values, bits).t(), "qzeros": qzeros, "scales": scale.t(), "g_idx": group.int()}
        return parts, expected

    return pack


def awq(size: int, *, zero_point: bool = True) -> Packer:
    """AutoAWQ's gemm version."""

    def order(values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(-1, (-1, 8))[..., AWQ_ORDER].flatten(-2)

    def pack(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
        width = weight.shape[1]
        group = torch.arange(width) // (width if size == -1 else size)
        values, scale, zero, expected = rounded(weight, 4, group, not zero_point)
        parts = {"qweight": words(order(values.t()), 4), "scales": scale.t()}
        return parts | ({"qzeros": words(order(zero.t()), 4)} if zero_point else {}), expected

    return pack


def fp8(height: int | None = None, width: int | None = None, *, scale_name: str = "weight_scale_inv") -> Packer:
    """A float32 scale for each block, or for the whole tensor without a size."""

    def pack(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
        rows, columns = weight.shape
        tall, wide = height or rows, width or columns
        scales = torch.empty(ceil(rows / tall), ceil(columns / wide))
        stored, expected = torch.empty(rows, columns, dtype=torch.float8_e4m3fn), torch.empty(rows, columns)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                block = np.s_[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
                scales[i, j] = weight[block].abs().max() / 448
                stored[block] = (weight[block] / scales[i, j]).to(torch.float8_e4m3fn)
                expected[block] = stored[block].float() * scales[i, j]
        return {"weight": stored, scale_name: scales if height else scales.reshape(())}, expected

    return pack
