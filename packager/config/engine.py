"""The `engine:` section of config.yaml: what to compile, and within which limits."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from runtime.engine.manifest import DType


class EngineConfig(BaseModel):
    """`max_model_len` None takes the checkpoint's own context length."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    backend: Literal["auto", "torch"] = "auto"
    dtype: DType = "bfloat16"
    quantization: None = None
    max_model_len: int | None = Field(default=None, ge=1)
    max_batch_size: int = Field(default=64, ge=1)
    max_num_tokens: int = Field(default=8192, ge=1)
