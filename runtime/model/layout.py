"""The names and shapes of an engine's weights: what compile writes and what every backend reads.

Merged projections: `qkv` stacks query, key and value rows; `gate_up` stacks gate and up rows.
"""

from collections.abc import Iterator

from runtime.model.config import ModelConfig

Shape = tuple[int, ...]


def weights(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """Every tensor of an engine, in layer order; linear weights are [out, in]. No `head.weight` when tied."""
    yield "embed.weight", (config.vocab_size, config.hidden_size)
    for index in range(config.num_layers):
        for name, shape in layer(config):
            yield f"layers.{index}.{name}", shape
    yield "norm.weight", (config.hidden_size,)
    if not config.tie_word_embeddings:
        yield "head.weight", (config.vocab_size, config.hidden_size)


def layer(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """The tensors of one layer, without their `layers.N.` prefix."""
    hidden, inner = config.hidden_size, config.intermediate_size
    qkv = config.q_size + 2 * config.kv_size
    yield "input_norm.weight", (hidden,)
    yield "qkv.weight", (qkv, hidden)
    if config.qkv_bias:
        yield "qkv.bias", (qkv,)
    if config.qk_norm:
        yield "q_norm.weight", (config.head_dim,)
        yield "k_norm.weight", (config.head_dim,)
    yield "o.weight", (hidden, config.q_size)
    if config.o_bias:
        yield "o.bias", (hidden,)
    yield "mlp_norm.weight", (hidden,)
    yield "gate_up.weight", (2 * inner, hidden)
    yield "down.weight", (hidden, inner)
    if config.mlp_bias:
        yield "gate_up.bias", (2 * inner,)
        yield "down.bias", (hidden,)
