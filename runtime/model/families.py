"""The supported model families, keyed by the `architectures` entry of a Hugging Face config.json."""

from collections.abc import Callable, Mapping
from typing import Any

from runtime.errors import EngineError
from runtime.model.config import ModelConfig, RopeConfig
from runtime.model.extension import Registry

HfConfig = Mapping[str, Any]
Family = Callable[[HfConfig], ModelConfig]


class UnsupportedModelError(ValueError):
    """The architecture, or one of its options, is not one the runtime can run."""


def parse(config: HfConfig) -> ModelConfig:
    """A ModelConfig from the contents of a Hugging Face config.json.

    Raises UnsupportedModelError, which lists the supported architectures or names the option refused.
    """
    parse_family = FAMILIES.find(architecture(config))
    try:
        parsed = parse_family(config)
    except KeyError as error:
        raise UnsupportedModelError(f"config.json has no {error.args[0]!r}") from error
    _check_registered(parsed)
    return parsed


def architecture(config: HfConfig) -> str:
    """The supported architecture a config.json names. Raises UnsupportedModelError."""
    named = config.get("architectures") or []
    for name in named:
        if name in FAMILIES:
            return str(name)
    refused, supported = ", ".join(named) or "a config without architectures", ", ".join(FAMILIES)
    raise UnsupportedModelError(f"{refused} is not supported; supported: {supported}")


def family(name: str) -> Callable[[Family], Family]:
    """Registers a function config.json → ModelConfig for an architecture; the functions below are there to call.

    Their `fields` are fields of ModelConfig that take the place of what the family itself says.
    """
    return FAMILIES.register(name)


def llama(config: HfConfig, **fields: Any) -> ModelConfig:
    """Llama 1 to 3, and what shares their architecture."""
    bias = bool(config.get("attention_bias", False))
    own = {"qkv_bias": bias, "o_bias": bias, "mlp_bias": bool(config.get("mlp_bias", False))}
    return _decoder({"max_position_embeddings": 2048, **config}, own | fields)


def mistral(config: HfConfig, **fields: Any) -> ModelConfig:
    """Mistral 7B and its successors of one sliding window, or none, in every layer."""
    given = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096, **config}
    return _decoder(given, {"windows": (given["sliding_window"],) * given["num_hidden_layers"]} | fields)


def qwen2(config: HfConfig, **fields: Any) -> ModelConfig:
    """Qwen 1.5, 2 and 2.5: biases on queries, keys and values."""
    given = {**_QWEN, **config}
    return _decoder(given, {"qkv_bias": True, "windows": _qwen_windows(given)} | fields)


def qwen3(config: HfConfig, **fields: Any) -> ModelConfig:
    """Qwen 3: norms of each head's query and key."""
    given = {**_QWEN, "head_dim": 128, **config}
    bias = bool(config.get("attention_bias", False))
    own = {"qkv_bias": bias, "o_bias": bias, "qk_norm": True, "windows": _qwen_windows(given)}
    return _decoder(given, own | fields)


# What transformers' config classes fill in for an absent key; a null one means something else.
_QWEN = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
FAMILIES: Registry[Family] = Registry(
    "architecture",
    {
        "LlamaForCausalLM": llama,
        "MistralForCausalLM": mistral,
        "Qwen2ForCausalLM": qwen2,
        "Qwen3ForCausalLM": qwen3,
    },
)


def _check_registered(parsed: ModelConfig) -> None:
    # Not above: they import torch, and the command line tells its errors with this module.
    from runtime.model.activations import ACTIVATIONS
    from runtime.model.norms import NORMS

    try:
        ACTIVATIONS.find(parsed.activation)
        NORMS.find(parsed.norm)
    except EngineError as error:
        raise UnsupportedModelError(str(error)) from error


def _decoder(config: HfConfig, family: Mapping[str, Any]) -> ModelConfig:
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    layers = int(config["num_hidden_layers"])
    return ModelConfig(
        **{
            "hidden_size": hidden,
            "intermediate_size": config["intermediate_size"],
            "num_layers": layers,
            "num_heads": heads,
            "num_kv_heads": config.get("num_key_value_heads") or heads,
            "head_dim": config.get("head_dim") or hidden // heads,
            "vocab_size": config["vocab_size"],
            "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
            "max_position_embeddings": config["max_position_embeddings"],
            "rope": _rope(config),
            "windows": (None,) * layers,
            "activation": config.get("hidden_act", "silu"),
            "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
            **family,
        }
    )


def _qwen_windows(config: HfConfig) -> tuple[int | None, ...]:
    layers = int(config["num_hidden_layers"])
    window = config["sliding_window"] if config["use_sliding_window"] else None
    kinds = config.get("layer_types")
    if not kinds:
        first = config["max_window_layers"]
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _rope(config: HfConfig) -> RopeConfig:
    """Reads both spellings: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (4)."""
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    theta = given.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    if kind not in ("default", "linear", "llama3", "yarn"):
        supported = "default, linear, llama3, yarn"
        raise UnsupportedModelError(f"rope type {kind!r} is not supported; supported: {supported}")
    partial = given.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise UnsupportedModelError(f"partial_rotary_factor {partial} is not supported; supported: 1.0")
    known = {k: v for k, v in given.items() if k in RopeConfig.model_fields and v is not None}
    if kind in ("llama3", "yarn"):
        known.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    return RopeConfig.model_validate({"type": kind, "theta": theta, **known})
