"""Folding a scale into what comes before a linear layer changes its weights and nothing that the model says."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from packager.quantize.fold import fold, foldable, tied
from runtime.model.config import ModelConfig
from runtime.model.quantization import LINEARS
from tests.packager.quantize.models import engine_tensors, logits, token_sequences
from tests.tiny import FAMILIES, make_checkpoint


def with_scales(config: ModelConfig, tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Every layer with random scales of a wide range in every place that takes one."""
    torch.manual_seed(0)
    changed = dict(tensors)
    for index in range(config.num_layers):
        prefix = f"layers.{index}."
        layer = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        for linear in foldable(config):
            scale = tied(linear, torch.rand(layer[f"{linear}.weight"].shape[1]) * 8 + 0.1, config)
            layer, applied = fold(layer, linear, scale, config, dtype)
            assert (applied / scale - 1).abs().max() < 2**-8  # what the norm's rounding leaves
        changed |= {prefix + name: tensor for name, tensor in layer.items()}
    return changed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_says_what_it_said(family: str, dtype: torch.dtype, tiny_checkpoint: Callable[[str], Path]) -> None:
    config, tensors = engine_tensors(tiny_checkpoint(family))
    check_unchanged(config, tensors, dtype)


def test_biases_of_every_linear_layer_are_scaled_with_their_rows(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path, attention_bias=True, mlp_bias=True)
    check_unchanged(*engine_tensors(folder), torch.float32)


def check_unchanged(config: ModelConfig, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    (tokens,) = token_sequences(0, 24)
    changed = with_scales(config, tensors, dtype)
    assert changed.keys() == tensors.keys()
    for index in range(config.num_layers):
        for linear in LINEARS:
            name = f"layers.{index}.{linear}.weight"
            assert not torch.allclose(changed[name], tensors[name], rtol=0.05)
    before, after = logits(config, tensors, tokens), logits(config, changed, tokens)
    assert (after - before).abs().max() < 1e-4 * before.abs().max()


def test_query_heads_that_share_values_share_their_scales(tiny_checkpoint: Callable[[str], Path]) -> None:
    config, _ = engine_tensors(tiny_checkpoint("llama"))
    scale = torch.rand(config.q_size) + 0.5
    found = tied("o", scale, config).view(config.num_kv_heads, -1, config.head_dim)
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.equal(tied("down", scale, config), scale)


def test_nothing_is_folded_into_a_norm_of_the_users(tiny_checkpoint: Callable[[str], Path]) -> None:
    config, _ = engine_tensors(tiny_checkpoint("llama"))
    assert foldable(config) == ["down", "gate_up", "o", "qkv"]
    assert foldable(config.model_copy(update={"norm": "mine"})) == ["down", "o"]
