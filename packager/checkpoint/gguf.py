"""A .gguf file: weights, config, tokenizer and chat template in one.

Format and metadata keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from packager.checkpoint import metadata, vocabulary
from packager.checkpoint.base import Checkpoint
from packager.errors import TrtpackError

_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# What the config already says: llama3's RoPE factors, and the RoPE table that old files carry.
_NOT_WEIGHTS = re.compile(r"rope_freqs\.weight|.*\.attn_rot_embd\.weight")


class GgufCheckpoint(Checkpoint):
    """A single-file GGUF of a llama (Llama, Mistral), qwen2 or qwen3 architecture, quantised or not."""

    def __init__(self, path: Path, source: str) -> None:
        """Raises TrtpackError when the file is truncated, is not GGUF, or holds what the runtime cannot run."""
        reader = _read(path)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._meta = {name: metadata.value(field) for name, field in reader.fields.items()}
        self._arch = str(self._meta.get("general.architecture"))
        self._path = path
        if (parts := self._meta.get("split.count", 0)) > 1:
            raise TrtpackError(
                f"{path} is one of {parts} parts of a split GGUF", "Join them first: llama-gguf-split --merge FIRST OUT"
            )
        self._tensors = {hf_name(name): t for name, t in tensors.items() if not _NOT_WEIGHTS.fullmatch(name)}
        shapes = {name: tuple(int(n) for n in reversed(tensor.shape)) for name, tensor in self._tensors.items()}
        _check_types(path, self._tensors.values())
        factors = tensors["rope_freqs.weight"].data if "rope_freqs.weight" in tensors else None
        super().__init__(source, metadata.config(path, self._meta, shapes, factors), shapes)

    def get(self, name: str) -> torch.Tensor:
        tensor = self._tensors[name]
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        # F32 comes as the read-only memory map itself.
        weight = torch.from_numpy(array if array.flags.writeable else array.copy())
        if self._arch == "llama" and (match := re.search(r"\.([qk])_proj\.", name)):
            return unpermute(weight, self.model.num_heads if match[1] == "q" else self.model.num_kv_heads)
        return weight

    def write_tokenizer(self, folder: Path) -> None:
        vocabulary.write(self._path, self._meta, folder)


def unpermute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows [heads * head_dim, ...] in Hugging Face's order: each head's two RoPE halves, not interleaved pairs.

    Inverse of `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def hf_name(name: str) -> str:
    """Hugging Face's name of a GGUF tensor; one without a counterpart keeps its own."""
    stem, _, kind = name.rpartition(".")
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)", stem):
        inner = _LAYER_NAMES.get(match[2])
        return f"model.layers.{match[1]}.{inner}.{kind}" if inner else name
    return f"{_NAMES[stem]}.{kind}" if stem in _NAMES else name


def _check_types(path: Path, tensors: Iterable[Any]) -> None:
    for kind, name in {tensor.tensor_type: tensor.name for tensor in tensors}.items():
        block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
        try:
            gguf.quants.dequantize(block, kind)
        except NotImplementedError as error:
            raise TrtpackError(
                f"{path}: {name} is stored as {kind.name}, which is not supported",
                "Use a file in F16, BF16, Q8_0, Q6_K, Q4_K or similar.",
            ) from error


class _Reader(gguf.GGUFReader):  # type: ignore[misc]
    """The library's reader, which reads past the end of a short file without saying so: this one raises EOFError."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise EOFError(f"expected at least {end} bytes, found {len(self.data)}")
        return super()._get(offset, dtype, count, override_order)

    def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
        ends = [start_offs]
        for field in fields:
            *_, dims, kind, offset = field.parts
            block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind[0])]
            ends.append(start_offs + int(offset[0]) + int(np.prod(dims)) // block * size)
        if len(self.data) < max(ends):
            raise EOFError(f"expected {max(ends)} bytes, found {len(self.data)}")
        super()._build_tensors(start_offs, fields)


def _read(path: Path) -> Any:
    if path.stat().st_size == 0:
        raise TrtpackError(f"{path} is empty", "Download it again.")
    try:
        return _Reader(path)
    except EOFError as error:
        raise TrtpackError(f"{path} is truncated: {error}", "Download it again.") from error
    except (ValueError, KeyError) as error:
        raise TrtpackError(f"{path} is not a readable GGUF file: {error}", "Download it again.") from error
