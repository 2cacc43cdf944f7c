"""An adapter's folder: what is refused, and in which words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.engine import manifest
from runtime.errors import EngineError
from runtime.lora.adapter import read
from runtime.model.config import ModelConfig
from tests.adapters import edit, edit_weights, make_adapter
from tests.conftest import TinyEngine

Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def adapter(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return make_adapter(tiny_checkpoint("llama"), tmp_path / "adapter", target_modules=["q_proj", "down_proj"])


@pytest.fixture
def model(tiny_engine: TinyEngine) -> ModelConfig:
    return manifest.read(tiny_engine()).model.config


def refusal(folder: Path, model: ModelConfig) -> str:
    with pytest.raises(EngineError) as caught:
        read(folder, model)
    return str(caught.value).replace(f"{folder}/", "")


def test_merged_linears_take_their_parts(adapter: Path, model: ModelConfig) -> None:
    read_one = read(adapter, model)
    assert set(read_one) == {(layer, linear) for layer in range(3) for linear in ("qkv", "down")}
    pair = read_one[1, "qkv"]
    assert (pair.down.shape, pair.up.shape) == ((4, 64), (128, 4))
    assert not pair.up[64:].any() and pair.up[:64].all()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("peft_type", "IA3", "peft_type IA3"),
        ("use_dora", True, "DoRA (use_dora)"),
        ("bias", "lora_only", "biases that were trained (bias: lora_only)"),
        ("lora_bias", True, "a bias in the adapter (lora_bias)"),
        ("modules_to_save", ["lm_head"], "modules that were trained whole (modules_to_save)"),
        ("trainable_token_indices", [3], "embeddings that were trained (trainable_token_indices)"),
        ("fan_in_fan_out", True, "transposed weights (fan_in_fan_out)"),
        ("alora_invocation_tokens", [1, 2], "an activated adapter (alora_invocation_tokens)"),
        ("init_lora_weights", "pissa", "another base model than the checkpoint (init_lora_weights: pissa)"),
    ],
)
def test_what_is_not_lora_alone(field: str, value: Any, said: str, adapter: Path, model: ModelConfig) -> None:
    edit(adapter, **{field: value})
    expected = f"adapter_config.json says {said}, which is not supported; merge it into its checkpoint"
    assert refusal(adapter, model) == expected


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("r", 0, "r\n"), ("lora_alpha", "much", "lora_alpha\n"), ("rank_pattern", {"(": 2}, "unterminated")],
)
def test_settings_that_make_no_sense(field: str, value: Any, said: str, adapter: Path, model: ModelConfig) -> None:
    text = refusal(edit(adapter, **{field: value}), model)
    assert text.startswith("adapter_config.json is not valid: ")
    assert said in text


def test_a_file_is_missing_or_no_json(adapter: Path, model: ModelConfig) -> None:
    weights, settings = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    weights.rename(adapter / "elsewhere")
    assert refusal(adapter, model) == "adapter_model.safetensors is missing"
    (adapter / "adapter_model.bin").touch()
    assert refusal(adapter, model).startswith("adapter_model.safetensors is missing: pickled weights can run code")
    settings.write_text("[1]")
    assert refusal(adapter, model).startswith("adapter_config.json is not valid: ")
    settings.unlink()
    assert refusal(adapter, model).startswith("adapter_config.json is missing; an adapter is a folder")


def test_a_damaged_file(adapter: Path, model: ModelConfig) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert refusal(adapter, model).startswith("adapter_model.safetensors cannot be read: ")


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight",
    ],
)
def test_tensors_that_have_no_place(name: str, adapter: Path, model: ModelConfig) -> None:
    edit_weights(adapter, lambda tensors: tensors.update({name: torch.zeros(4, 64)}))
    assert refusal(adapter, model) == (
        f"adapter_model.safetensors holds {name}; an adapter may change self_attn.q_proj, self_attn.k_proj, "
        "self_attn.v_proj, self_attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj, and nothing else"
    )


def test_no_tensors_at_all(adapter: Path, model: ModelConfig) -> None:
    edit_weights(adapter, lambda tensors: tensors.clear())
    assert refusal(adapter, model) == "adapter_model.safetensors holds no tensor"


@pytest.mark.parametrize(("half", "other"), [("A", "B"), ("B", "A")])
def test_one_half_alone(half: str, other: str, adapter: Path, model: ModelConfig) -> None:
    missing = Q.replace("lora_A", f"lora_{half}")
    edit_weights(adapter, lambda tensors: tensors.pop(missing))
    assert refusal(adapter, model) == (f"adapter_model.safetensors holds no {missing}, the other half of what it holds")


def test_another_width_rank_or_depth(adapter: Path, model: ModelConfig) -> None:
    other = "it is an adapter of another model, or its two files are not of one adapter"
    narrow = model.model_copy(update={"hidden_size": 32})
    text = refusal(adapter, narrow)
    assert text.startswith("adapter_model.safetensors: ") and text.endswith(other)
    shallow = model.model_copy(update={"num_layers": 1})
    assert refusal(adapter, shallow).endswith("and the engine has 1 layers: it is an adapter of another model")
    edit_weights(adapter, lambda tensors: tensors.update({Q: torch.zeros(5, 64)}))
    assert refusal(adapter, model) == f"adapter_model.safetensors: {Q} has shape [5, 64], expected [4, 64]: {other}"
