"""adapter_config.json, as PEFT writes it: how strong an adapter is, and whether there is more to it than LoRA."""

import re
from collections.abc import Iterable, Iterator, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from runtime.errors import EngineError

FILE_NAME = "adapter_config.json"

# What changes the computation where it is set. Names and meaning: LoraConfig of PEFT 0.21.
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "alora_invocation_tokens": "an activated adapter",
    "lora_bias": "a bias in the adapter",
    "modules_to_save": "modules that were trained whole",
    "trainable_token_indices": "embeddings that were trained",
    "target_parameters": "parameters that belong to no linear layer",
    "layer_replication": "replicated layers",
    "fan_in_fan_out": "transposed weights",
}
# Other ways to begin training take something away from the model's own weights first.
_INITS = (None, True, False, "gaussian", "eva", "orthogonal")


class Settings(BaseModel):
    """`rank_pattern` and `alpha_pattern`: what takes the place of `r` and `lora_alpha` in modules whose name ends so.

    Their keys are regular expressions.
    """

    model_config = ConfigDict(frozen=True)

    r: int = Field(ge=1)
    lora_alpha: float
    use_rslora: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        """Raises EngineError for a file that is missing or not valid, and for what is not supported."""
        path = folder / FILE_NAME
        if not path.is_file():
            raise EngineError(f"{path} is missing; an adapter is a folder that PEFT's save_pretrained wrote")
        try:
            content = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
            if refused := ", ".join(_refused(content)):
                raise EngineError(f"{path} says {refused}, which is not supported; merge it into its checkpoint")
            settings = cls.model_validate({key: value for key, value in content.items() if value is not None})
            for key in (*settings.rank_pattern, *settings.alpha_pattern):
                re.compile(key)
        except (ValidationError, re.error) as error:
            raise EngineError(f"{path} is not valid: {error}") from error
        return settings

    def rank(self, module: str) -> int:
        """Of a module such as model.layers.0.self_attn.q_proj."""
        return self.rank_pattern.get(_key(self.rank_pattern, module), self.r)

    def scale(self, module: str) -> float:
        """What B @ A is multiplied by: alpha / r, or of rank-stabilised LoRA alpha / sqrt(r)."""
        alpha = self.alpha_pattern.get(_key(self.alpha_pattern, module), self.lora_alpha)
        rank = self.rank(module)
        return alpha / (sqrt(rank) if self.use_rslora else rank)


def _refused(content: Mapping[str, Any]) -> Iterator[str]:
    if (kind := content.get("peft_type")) != "LORA":
        yield f"peft_type {kind}"
    if (bias := content.get("bias", "none")) != "none":
        yield f"biases that were trained (bias: {bias})"
    if (init := content.get("init_lora_weights")) not in _INITS:
        yield f"another base model than the checkpoint (init_lora_weights: {init})"
    for name, what in _UNSUPPORTED.items():
        if content.get(name):
            yield f"{what} ({name})"


def _key(patterns: Iterable[str], module: str) -> str:
    """The first that matches, as PEFT's get_pattern_key."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)
