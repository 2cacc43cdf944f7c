"""The `engine:` section of config.yaml: what to compile, for what, and within which limits."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_core import PydanticCustomError

from packager.config.section import Section
from packager.config.values import AdapterName, EngineSource, InsidePath, Positive, Text
from runtime.engine.manifest import BackendName, DType, Scheduling, Scheme, SpeculationMethod, WeightsMode


class Speculation(Section):
    """How tokens are guessed ahead, at most `tokens` a step. `checkpoint` is that of the draft model."""

    method: SpeculationMethod
    tokens: Positive = 4
    checkpoint: Text | None = None

    @model_validator(mode="after")
    def _a_draft_model_has_a_checkpoint(self) -> Self:
        if (self.checkpoint is not None) != (self.method == "draft_model"):
            raise ValueError("expected checkpoint with method draft_model, and with no other")
        return self


class EngineConfig(Section):
    """`source` is where an engine that was pushed is pulled from at start, oci://… or hf://…; without one, or to
    compile it, there is a `checkpoint`. `max_model_len` None takes the checkpoint's own context length.

    `backend` "auto" follows the GPU. `group_size` is int4's: input features that share a scale. `weights` None takes
    what suits the precision: inputs of the plans for 16 bits, embedded in them when quantised. `calibration` is a text
    file that activations are measured on. `kv_cache_fraction` is the share of the GPU's free memory for the KV cache.
    `default_max_new_tokens` is for requests that name no max_new_tokens; `scheduling` is how requests share the engine.
    `adapters` are LoRA adapters by the name that requests choose one by, each a checkpoint reference; with any,
    `backend` "auto" is torch. `layers` is a Python file of the package that registers its own activation, norm or
    family. `speculation` None generates one token at a time.
    """

    source: EngineSource | None = None
    checkpoint: Text = Field(default=None, validate_default=True)
    backend: Literal["auto"] | BackendName = "auto"
    dtype: DType = "bfloat16"
    quantization: Scheme | None = None
    group_size: Literal[32, 64, 128] | None = None
    calibration: Text | None = None
    weights: WeightsMode | None = None
    max_model_len: Positive | None = None
    max_batch_size: Positive = 64
    max_num_tokens: Positive = 8192
    kv_cache_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    default_max_new_tokens: Positive = 512
    scheduling: Scheduling = Scheduling()
    adapters: dict[AdapterName, Text] = Field(default_factory=dict)
    layers: InsidePath | None = None
    speculation: Speculation | None = None

    @field_validator("checkpoint", mode="wrap")
    @classmethod
    def _compiled_or_pulled(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
        """Empty where nothing is to be compiled."""
        if value is not None:
            return str(check(value))
        if "source" in info.data and info.data["source"] is None:  # a wrong one is told of by itself
            raise PydanticCustomError("missing", "Field required")
        return ""

    @model_validator(mode="after")
    def _groups_are_int4s(self) -> Self:
        if self.group_size is not None and self.quantization != "int4":
            raise ValueError("expected group_size with quantization int4 only")
        return self
