"""Writes .gguf files for tests, from tiny Hugging Face checkpoints, as llama.cpp's converter does."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path,
    folder: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    metadata: dict[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """The checkpoint in `folder` as a .gguf, its matrices stored as `kind`, its vectors as F32.

    `metadata` adds keys or replaces them, `drop` leaves keys out, `extra` adds tensors.
    """
    config = json.loads((folder / "config.json").read_text())
    arch = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, arch)
    values = {**_metadata(arch, config), **_vocabulary(folder), **(metadata or {})}
    for key, value in values.items():
        if key not in drop:
            _add(writer, key, value)
    for name, tensor in load_file(folder / "model.safetensors").items():
        array = _permuted(arch, config, name, tensor).numpy()
        stored = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), quantized(array, stored), raw_dtype=stored)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Hugging Face tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{_LAYER[inner]}.{kind}"


def quantized(array: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """`array` as `kind` stores it; K types, which the library cannot write, get random blocks with sane scales."""
    if kind.name.endswith("_K"):
        return _random_blocks(array, kind)
    return gguf.quants.quantize(array, kind)


def _random_blocks(array: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, width = array.shape[0], array.shape[1] // block
    blocks = np.random.default_rng(0).integers(0, 256, (rows, width, size), dtype=np.uint8)
    scale = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    if kind.name == "Q6_K":
        blocks[..., -2:] = scale
    else:
        blocks[..., 0:2] = blocks[..., 2:4] = scale
    return blocks.reshape(rows, width * size)


def _permuted(arch: str, config: dict[str, Any], name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Llama's query and key rows in ggml's order, as `LlamaModel.permute` of llama.cpp does it."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if arch != "llama" or heads is None:
        return tensor
    shape = (config[heads], 2, tensor.shape[0] // config[heads] // 2, *tensor.shape[1:])
    return tensor.reshape(shape).swapaxes(1, 2).reshape(tensor.shape).contiguous()


def _metadata(arch: str, config: dict[str, Any]) -> dict[str, Any]:
    values = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": config["rope_parameters"]["rope_theta"],
    }
    if config.get("head_dim"):
        values["attention.key_length"] = config["head_dim"]
    if config["model_type"] == "mistral" and config["sliding_window"]:
        values["attention.sliding_window"] = config["sliding_window"]
    return {f"{arch}.{key}": value for key, value in values.items()}


def _vocabulary(folder: Path) -> dict[str, Any]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    by_id = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [by_id[index] for index in range(size)],
        "tokenizer.ggml.token_type": [3 if index in special else 1 for index in range(size)],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": (folder / "chat_template.jinja").read_text(),
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)
