"""The names and shapes of an engine's weights: what compile writes and what every backend reads.

Merged projections: `qkv` stacks query, key and value rows; `gate_up` stacks gate and up rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from runtime.model.config import ModelConfig

Shape = tuple[int, ...]
Kind = Literal["opening", "middle", "closing", "head"]

# What a compiled segment takes beside its weights, and what it gives, in the order of its module's arguments and
# results: each [T, …]. An input and an output of one network need two names, hence next_residual and hidden_out.
INPUTS: Mapping[Kind, tuple[str, ...]] = {
    "opening": ("residual", "cos", "sin"),
    "middle": ("attention", "residual", "cos", "sin"),
    "closing": ("attention", "residual"),
    "head": ("hidden",),
}
OUTPUTS: Mapping[Kind, tuple[str, ...]] = {
    "opening": ("query", "key", "value"),
    "middle": ("next_residual", "query", "key", "value"),
    "closing": ("hidden_out",),
    "head": ("logits",),
}


@dataclass(frozen=True)
class Segment:
    """A segment of `runtime.model.decoder` that a backend may compile; all of one kind have the same graph.

    `name`: "opening", "middle.0", …, "closing", "head". `weights`: the engine tensor that each parameter of the
    segment's module is, by the parameter's name.
    """

    name: str
    kind: Kind
    weights: Mapping[str, str]


def weights(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """Every tensor of an engine, in layer order; linear weights are [out, in]. No `head.weight` when tied."""
    yield "embed.weight", (config.vocab_size, config.hidden_size)
    for index in range(config.num_layers):
        for name, shape in layer(config):
            yield f"layers.{index}.{name}", shape
    yield "norm.weight", (config.hidden_size,)
    if not config.tie_word_embeddings:
        yield "head.weight", (config.vocab_size, config.hidden_size)


def parameters(config: ModelConfig) -> int:
    """Elements of all weights, a tied embedding's once."""
    return sum(prod(shape) for _, shape in weights(config))


def layer(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """The tensors of one layer, without their `layers.N.` prefix."""
    yield from before_attention(config)
    yield from after_attention(config)


def before_attention(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """What makes a layer's heads of the residual."""
    hidden = config.hidden_size
    qkv = config.q_size + 2 * config.kv_size
    yield "input_norm.weight", (hidden,)
    yield "qkv.weight", (qkv, hidden)
    if config.qkv_bias:
        yield "qkv.bias", (qkv,)
    if config.qk_norm:
        yield "q_norm.weight", (config.head_dim,)
        yield "k_norm.weight", (config.head_dim,)


def after_attention(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """What makes the next residual of a layer's attention."""
    hidden, inner = config.hidden_size, config.intermediate_size
    yield "o.weight", (hidden, config.q_size)
    if config.o_bias:
        yield "o.bias", (hidden,)
    yield "mlp_norm.weight", (hidden,)
    yield "gate_up.weight", (2 * inner, hidden)
    yield "down.weight", (hidden, inner)
    if config.mlp_bias:
        yield "gate_up.bias", (2 * inner,)
        yield "down.bias", (hidden,)


def segments(config: ModelConfig) -> Iterator[Segment]:
    """Every segment in the order it runs, the embedding aside, which is a lookup."""

    def before(role: str, index: int) -> dict[str, str]:
        return {f"{role}.{name}": f"layers.{index}.{name}" for name, _ in before_attention(config)}

    def after(role: str, index: int) -> dict[str, str]:
        return {f"{role}.{name}": f"layers.{index}.{name}" for name, _ in after_attention(config)}

    last = config.num_layers - 1
    yield Segment("opening", "opening", before("first", 0))
    for index in range(last):
        yield Segment(f"middle.{index}", "middle", after("previous", index) | before("following", index + 1))
    yield Segment("closing", "closing", after("last", last) | {"norm.weight": "norm.weight"})
    head = "embed.weight" if config.tie_word_embeddings else "head.weight"
    yield Segment("head", "head", {"weight": head})
