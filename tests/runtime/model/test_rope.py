"""Inverse frequencies and tables equal transformers'."""

from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from runtime.model import rope
from runtime.model.families import parse
from tests.tiny import make_config

SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn with mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
        "beta_fast": 16.0,
    },
    "yarn, untruncated": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "truncate": False,
        "attention_factor": 1.3,
    },
}


@pytest.mark.parametrize("name", SCALINGS)
def test_tables(name: str) -> None:
    config = make_config("llama", rope_parameters={"rope_theta": 5000.0, **SCALINGS[name]}, head_dim=64)
    parsed = parse({**config.to_dict(), "architectures": ["LlamaForCausalLM"]})
    cos, sin = rope.tables(parsed.rope, parsed.head_dim, 512)
    want_cos, want_sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(512)[None])
    torch.testing.assert_close(cos, want_cos[0], rtol=0, atol=0)
    torch.testing.assert_close(sin, want_sin[0], rtol=0, atol=0)


def test_apply() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(5, 4, 8, generator=generator), torch.randn(5, 2, 8, generator=generator)
    cos, sin = torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)
    want = apply_rotary_pos_emb(query.transpose(0, 1)[None], key.transpose(0, 1)[None], cos[None], sin[None])
    for x, expected in zip((query, key), want, strict=True):
        torch.testing.assert_close(rope.apply(x, cos, sin), expected[0].transpose(0, 1), rtol=0, atol=0)
