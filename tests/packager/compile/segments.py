"""What the compiler's tests export: tiny models of every family."""

from functools import cache

from runtime.engine.manifest import Limits, Quantization
from runtime.model import families
from runtime.model.config import ModelConfig
from runtime.model.layout import Kind
from tests.tiny import make_config

KINDS: tuple[Kind, ...] = ("opening", "middle", "closing", "head")
LIMITS = Limits(max_model_len=512, max_batch_size=4, max_num_tokens=64)
SCHEMES = (
    Quantization(scheme="int8"),
    Quantization(scheme="int4", group_size=32),
    Quantization(scheme="fp8"),
    Quantization(scheme="smoothquant"),
)
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


@cache
def model(family: str, **changes: object) -> ModelConfig:
    """A family's tiny model; `changes` are fields of ModelConfig.

    Two layers, without windows: neither is part of a segment.
    """
    config = make_config(family).to_dict() | {"architectures": [ARCHITECTURES[family]]}
    return families.parse(config).model_copy(update={"num_layers": 2, "windows": (None, None), **changes})
