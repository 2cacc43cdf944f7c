"""Where the linear layers that an adapter speaks of lie in an engine, which merges some of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.model import layout
from runtime.model.config import ModelConfig


@dataclass(frozen=True)
class Place:
    """`rows` from row `start` of one of a layer's linears, qkv, o, gate_up or down, which is [height, width]."""

    linear: str
    start: int
    rows: int
    height: int
    width: int


def places(config: ModelConfig) -> Mapping[str, Place]:
    """By the projection's name in Hugging Face's modelling code, the same in every layer and family."""
    query, kv, inner, hidden = config.q_size, config.kv_size, config.intermediate_size, config.hidden_size
    shapes = dict(layout.layer(config))

    def place(linear: str, start: int, rows: int) -> Place:
        height, width = shapes[f"{linear}.weight"]
        return Place(linear, start, rows, height, width)

    return {
        "self_attn.q_proj": place("qkv", 0, query),
        "self_attn.k_proj": place("qkv", query, kv),
        "self_attn.v_proj": place("qkv", query + kv, kv),
        "self_attn.o_proj": place("o", 0, hidden),
        "mlp.gate_proj": place("gate_up", 0, inner),
        "mlp.up_proj": place("gate_up", inner, inner),
        "mlp.down_proj": place("down", 0, hidden),
    }
