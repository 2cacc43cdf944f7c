"""Parsed configs against what transformers' own config classes make of the same config.json."""

from typing import Any

import pytest
import transformers

from runtime.model.config import ModelConfig
from runtime.model.families import UnsupportedModelError, architecture, parse
from tests.tiny import FAMILIES, make_config

NAMES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
MINIMAL = {
    "vocab_size": 320,
    "hidden_size": 512,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 32,
}


def agrees(parsed: ModelConfig, config: Any) -> None:
    """Every field of ours equals the one of transformers that means the same."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert parsed.hidden_size == config.hidden_size
    assert parsed.intermediate_size == config.intermediate_size
    assert parsed.num_layers == config.num_hidden_layers
    assert parsed.num_heads == config.num_attention_heads
    assert parsed.num_kv_heads == config.num_key_value_heads
    assert parsed.head_dim == head_dim
    assert parsed.vocab_size == config.vocab_size
    assert parsed.rms_norm_eps == config.rms_norm_eps
    assert parsed.max_position_embeddings == config.max_position_embeddings
    assert parsed.tie_word_embeddings == config.tie_word_embeddings
    assert parsed.rope.type == config.rope_parameters["rope_type"]
    assert parsed.rope.theta == config.rope_parameters["rope_theta"]
    window = None if config.model_type == "llama" else config.sliding_window
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    assert parsed.windows == tuple(window if kind == "sliding_attention" else None for kind in kinds)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"num_key_value_heads": 4, "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
        {"head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"sliding_window": None},
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    ],
)
def test_agrees_with_transformers(family: str, overrides: dict[str, Any]) -> None:
    config = make_config(family, **overrides)
    agrees(parse({**config.to_dict(), "architectures": [NAMES[family]]}), config)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keys", [{}, {"use_sliding_window": True, "max_window_layers": 1}])
def test_absent_keys_take_transformers_defaults(family: str, keys: dict[str, Any]) -> None:
    classes = {name.lower(): getattr(transformers, f"{name}Config") for name in ("Llama", "Mistral", "Qwen2", "Qwen3")}
    given = {**MINIMAL, **keys}
    agrees(parse({**given, "architectures": [NAMES[family]]}), classes[family](**given))


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_null_kv_heads_mean_as_many_as_query_heads(name: str) -> None:
    assert parse({**MINIMAL, "num_key_value_heads": None, "architectures": [name]}).num_kv_heads == 32


def test_an_absent_window_is_not_a_null_one() -> None:
    mistral = {**MINIMAL, "architectures": ["MistralForCausalLM"]}
    assert parse(mistral).windows == (4096,) * 3
    assert parse({**mistral, "sliding_window": None}).windows == (None,) * 3


@pytest.mark.parametrize(
    ("family", "keys", "expected"),
    [
        ("llama", {}, (False, False, False, False)),
        ("llama", {"attention_bias": True, "mlp_bias": True}, (True, True, True, False)),
        ("mistral", {}, (False, False, False, False)),
        ("qwen2", {}, (True, False, False, False)),
        ("qwen3", {}, (False, False, False, True)),
        ("qwen3", {"attention_bias": True}, (True, True, False, True)),
    ],
)
def test_biases_and_norms(family: str, keys: dict[str, Any], expected: tuple[bool, ...]) -> None:
    """As the parameters of transformers' model have them."""
    parsed = parse({**make_config(family, **keys).to_dict(), "architectures": [NAMES[family]]})
    assert (parsed.qkv_bias, parsed.o_bias, parsed.mlp_bias, parsed.qk_norm) == expected
    model = getattr(transformers, NAMES[family])(make_config(family, **keys))
    names = {name.removeprefix("model.layers.0.") for name, _ in model.named_parameters()}
    kinds = ("self_attn.q_proj.bias", "self_attn.o_proj.bias", "mlp.up_proj.bias", "self_attn.q_norm.weight")
    assert tuple(kind in names for kind in kinds) == expected


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
    ],
)
def test_every_spelling_of_rope_scaling(spelling: dict[str, Any]) -> None:
    rope = parse({**MINIMAL, "architectures": ["LlamaForCausalLM"], **spelling}).rope
    assert (rope.type, rope.theta, rope.factor, rope.low_freq_factor, rope.high_freq_factor) == (
        "llama3",
        5e5,
        8.0,
        1.0,
        4.0,
    )
    assert rope.original_max_position_embeddings == 8192


def test_yarn_and_linear() -> None:
    llama = {**MINIMAL, "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}
    yarn = parse({**llama, "rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 16, "truncate": False}}).rope
    assert (yarn.type, yarn.factor, yarn.beta_fast, yarn.beta_slow) == ("yarn", 4.0, 16.0, 1.0)
    assert yarn.original_max_position_embeddings == 4096
    assert not yarn.truncate
    linear = parse({**llama, "rope_scaling": {"type": "linear", "factor": 2.0}}).rope
    assert (linear.type, linear.factor) == ("linear", 2.0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "GPT2LMHeadModel is not supported; supported: Llama.*Qwen3ForCausalLM",
        ),
        ({"architectures": None}, "a config without architectures is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic' is not supported"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor 0\.5 is not supported"),
        ({"hidden_act": "gelu"}, "activation 'gelu' is not registered"),
        ({"num_key_value_heads": 5}, "do not divide"),
    ],
)
def test_what_cannot_run_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse({**MINIMAL, "architectures": ["LlamaForCausalLM"], **keys})


def test_a_missing_key_is_named() -> None:
    config = {key: value for key, value in MINIMAL.items() if key != "hidden_size"}
    with pytest.raises(UnsupportedModelError, match="hidden_size"):
        parse({**config, "architectures": ["LlamaForCausalLM"]})


def test_the_first_supported_architecture_is_taken() -> None:
    assert architecture({"architectures": ["Odd", "Qwen3ForCausalLM"]}) == "Qwen3ForCausalLM"
