"""The `engine:` section of config.yaml: what to compile, for what, and within which limits."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from packager.config.section import Section
from packager.config.values import InsidePath, Positive, Text
from runtime.engine.manifest import BackendName, DType, Scheme, WeightsMode


class EngineConfig(Section):
    """`max_model_len` None takes the checkpoint's own context length.

    `backend` "auto" follows the GPU. `group_size` is int4's: input features that share a scale. `weights` None takes
    what suits the precision: inputs of the plans for 16 bits, embedded in them when quantised. `calibration` is a text
    file that activations are measured on. `kv_cache_fraction` is the share of the GPU's free memory for the KV cache.
    `layers` is a Python file of the package that registers its own activation, norm or family.
    """

    checkpoint: Text
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
    layers: InsidePath | None = None

    @model_validator(mode="after")
    def _groups_are_int4s(self) -> Self:
        if self.group_size is not None and self.quantization != "int4":
            raise ValueError("expected group_size with quantization int4 only")
        return self
