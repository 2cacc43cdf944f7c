"""A decoder's shape, in our own terms, whichever family or file it came from."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator


class RopeConfig(BaseModel):
    """Rotary embedding parameters, named as in Hugging Face's `rope_parameters`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["default", "linear", "llama3", "yarn"] = "default"
    theta: float = 10000.0
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @model_validator(mode="after")
    def _scaled_needs_its_origin(self) -> "RopeConfig":
        if self.type in {"llama3", "yarn"} and not self.original_max_position_embeddings:
            raise ValueError(f"rope type {self.type} needs original_max_position_embeddings")
        return self


class ModelConfig(BaseModel):
    """Everything the runtime must know to run a dense, pre-norm, gated-MLP decoder.

    `windows` has one entry a layer: the sliding window in tokens, or None for full causal attention.
    `qkv_bias` and `o_bias` are the attention projections' biases, `mlp_bias` the MLP's; `qk_norm` is an
    norm over each head's query and key before RoPE (Qwen3). `activation` and `norm` are names of
    `runtime.model.activations` and `runtime.model.norms`; `rms_norm_eps` is every norm's epsilon.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    activation: str = "silu"
    norm: str = "rms"
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} query heads do not divide into {self.num_kv_heads} KV heads")
        if len(self.windows) != self.num_layers:
            raise ValueError(f"{len(self.windows)} attention windows for {self.num_layers} layers")
        return self

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_kv_heads * self.head_dim
