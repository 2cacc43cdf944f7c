"""A Hugging Face config from a GGUF file's metadata.

Metadata keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from packager.errors import TrtpackError

Shape = tuple[int, ...]
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def value(field: Any) -> Any:
    """A metadata field's value; a float32 becomes the shortest decimal that reads back as the same float32."""
    content = field.contents()
    if isinstance(content, float) and field.parts[-1].dtype == np.float32:
        return float(str(np.float32(content)))
    return content


def config(path: Path, meta: Mapping[str, Any], shapes: Mapping[str, Shape], factors: Any | None) -> dict[str, Any]:
    """The config.json this file would have; `factors` is its rope_freqs tensor, [head_dim / 2], if it has one.

    Raises TrtpackError when the architecture, or one of its options, is not supported.
    """
    arch = str(meta.get("general.architecture"))
    if arch not in _ARCHITECTURES:
        raise TrtpackError(
            f"{path}: GGUF architecture {arch!r} is not supported; supported: {', '.join(sorted(_ARCHITECTURES))}"
        )
    keys = _Keys(path, arch, meta)
    heads = keys.integer("attention.head_count")
    head_dim = keys.integer("attention.key_length", keys.integer("embedding_length") // heads)
    window = keys.integer("attention.sliding_window", 0)
    # A Llama with a sliding window is what Hugging Face calls Mistral.
    mistral = arch == "llama" and window > 0
    hf = {
        "architectures": ["MistralForCausalLM" if mistral else _ARCHITECTURES[arch]],
        "model_type": "mistral" if mistral else arch,
        "hidden_size": keys.integer("embedding_length"),
        "intermediate_size": keys.integer("feed_forward_length"),
        "num_hidden_layers": keys.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "vocab_size": shapes.get("model.embed_tokens.weight", (0,))[0],
        "max_position_embeddings": keys.integer("context_length"),
        "rms_norm_eps": keys.get("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(keys, factors, head_dim),
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _stops(meta),
    }
    if arch != "qwen2":
        hf["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in shapes
    if arch == "llama":
        hf["mlp_bias"] = "model.layers.0.mlp.gate_proj.bias" in shapes
    if window:
        hf["sliding_window"] = window
    if window and not mistral:
        hf |= {"use_sliding_window": True, "max_window_layers": 0}
    return hf


class _Keys:
    """The metadata under the architecture's own prefix."""

    def __init__(self, path: Path, arch: str, meta: Mapping[str, Any]) -> None:
        self.path, self.arch, self.meta = path, arch, meta

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `ARCH.key`; without a default its absence is an error."""
        found = self.meta.get(f"{self.arch}.{key}", default)
        if found is None:
            raise TrtpackError(f"{self.path} has no {self.arch}.{key} in its metadata", "Download it again.")
        return found

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer, which some files write once a layer; layers that differ are not supported."""
        found = self.get(key, default)
        if isinstance(found, Sequence):
            if len(set(found)) != 1:
                raise TrtpackError(f"{self.path}: {self.arch}.{key} differs between layers, which is not supported")
            found = found[0]
        return int(found)


def _rope(keys: _Keys, factors: Any | None, head_dim: int) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(keys.get("rope.freq_base", 10000.0))}
    rotated = keys.integer("rope.dimension_count", head_dim)
    if rotated != head_dim:
        rope["partial_rotary_factor"] = rotated / head_dim
    kind = keys.get("rope.scaling.type", "none")
    linear = keys.get("rope.scale_linear", 1.0)  # how files spelled it before rope.scaling
    if factors is not None:
        rope |= llama3_rope(keys.path, np.asarray(factors, np.float64), rope["rope_theta"], head_dim)
    elif kind == "none" and linear != 1.0:
        rope |= {"rope_type": "linear", "factor": linear}
    elif kind != "none":
        rope |= {"rope_type": kind, "factor": float(keys.get("rope.scaling.factor"))}
        names = {
            "rope.scaling.original_context_length": "original_max_position_embeddings",
            "rope.scaling.attn_factor": "attention_factor",
            "rope.scaling.yarn_beta_fast": "beta_fast",
            "rope.scaling.yarn_beta_slow": "beta_slow",
        }
        rope |= {hf: keys.get(key) for key, hf in names.items() if f"{keys.arch}.{key}" in keys.meta}
    return rope


def llama3_rope(path: Path, factors: "np.ndarray[Any, Any]", theta: float, head_dim: int) -> dict[str, Any]:
    """The llama3 scaling whose per-frequency divisors [head_dim / 2] a file carries.

    llama.cpp's converter stores only the divisors, so the original context length is searched among powers of
    two with the low and high factors 1 and 4 of every Llama 3 release. Raises TrtpackError when none fits.
    """
    scale = float(factors.max())
    for original in (2**power for power in range(8, 21)):
        if np.allclose(_llama3_factors(theta, head_dim, scale, original), factors, rtol=1e-3):
            return {
                "rope_type": "llama3",
                "factor": float(str(np.float32(scale))),
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    raise TrtpackError(f"{path}: its rope_freqs tensor is not the llama3 RoPE scaling, which is the one supported")


def _llama3_factors(theta: float, head_dim: int, scale: float, original: int) -> "np.ndarray[Any, Any]":
    """Frequency divisors [head_dim / 2]; as in transformers' _compute_llama3_parameters, low factor 1, high 4."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelengths - 1.0) / 3.0, 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / scale + smooth))


def _stops(meta: Mapping[str, Any]) -> list[int]:
    """End of sequence, of turn and of message, without repeats."""
    ids = (meta.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return list(dict.fromkeys(i for i in ids if i is not None))
