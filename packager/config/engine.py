"""The `engine:` section of config.yaml: what to compile, and within which limits."""

from typing import Literal

from packager.config.section import Section
from packager.config.values import Positive, Text
from runtime.engine.manifest import DType


class EngineConfig(Section):
    """`max_model_len` None takes the checkpoint's own context length."""

    checkpoint: Text
    backend: Literal["auto", "torch"] = "auto"
    dtype: DType = "bfloat16"
    quantization: None = None
    max_model_len: Positive | None = None
    max_batch_size: Positive = 64
    max_num_tokens: Positive = 8192
