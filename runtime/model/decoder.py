"""The decoder's weights, and the segments that compute everything except attention.

A segment is what lies between two attentions, so that each can be run as it is, or exported and compiled:

    embed → opening → attention → middle → attention → … → closing → head

T is the number of tokens in a step, H the hidden size. Weights have the names of `runtime.model.layout`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from runtime.model import rope
from runtime.model.activations import ACTIVATIONS
from runtime.model.config import ModelConfig
from runtime.model.linear import Linear
from runtime.model.norms import NORMS

Heads = tuple[Tensor, Tensor, Tensor]


class Attend(Protocol):
    """Attention of one layer: queries [T, heads, dim], keys and values [T, KV heads, dim] → [T, heads * dim]."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, /) -> Tensor: ...


class Layer(nn.Module):
    """One decoder layer's weights; its two halves lie on either side of attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, inner, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
        self.heads_of = [config.num_heads, config.num_kv_heads]
        self.head_dim = config.head_dim
        self.activation, norm = ACTIVATIONS.find(config.activation), NORMS.find(config.norm)
        self.input_norm = norm(hidden, eps)
        self.qkv = Linear(hidden, config.q_size + 2 * config.kv_size, bias=config.qkv_bias)
        self.q_norm = norm(config.head_dim, eps) if config.qk_norm else None
        self.k_norm = norm(config.head_dim, eps) if config.qk_norm else None
        self.o = Linear(config.q_size, hidden, bias=config.o_bias)
        self.mlp_norm = norm(hidden, eps)
        self.gate_up = Linear(hidden, 2 * inner, bias=config.mlp_bias)
        self.down = Linear(inner, hidden, bias=config.mlp_bias)

    def heads(self, residual: Tensor, cos: Tensor, sin: Tensor) -> Heads:
        """Residual [T, H] → rotated queries and keys, and values, each [T, heads, head_dim]."""
        heads = self.qkv(self.input_norm(residual)).unflatten(-1, (-1, self.head_dim))
        rotary, value = torch.split(heads, [sum(self.heads_of), self.heads_of[1]], dim=1)
        if self.q_norm and self.k_norm:
            query, key = torch.split(rotary, self.heads_of, dim=1)
            rotary = torch.cat((self.q_norm(query), self.k_norm(key)), dim=1)
        # Both at once: half as many operations, which for a few tokens take longer to start than to compute.
        query, key = torch.split(rope.apply(rotary, cos, sin), self.heads_of, dim=1)
        return query, key, value

    def feed_forward(self, attention: Tensor, residual: Tensor) -> Tensor:
        """Attention [T, heads * dim] and residual [T, H] → the next residual [T, H]."""
        attended: Tensor = residual + self.o(attention)
        gate, up = self.gate_up(self.mlp_norm(attended)).chunk(2, dim=-1)
        grown: Tensor = attended + self.down(self.activation(gate) * up)
        return grown


class Opening(nn.Module):
    """Residual → the first layer's heads."""

    def __init__(self, first: Layer) -> None:
        super().__init__()
        self.first = first

    def forward(self, residual: Tensor, cos: Tensor, sin: Tensor) -> Heads:
        return self.first.heads(residual, cos, sin)


class Middle(nn.Module):
    """One layer's attention → the next layer's heads, and the residual between them."""

    def __init__(self, previous: Layer, following: Layer) -> None:
        super().__init__()
        self.previous, self.following = previous, following

    def forward(self, attention: Tensor, residual: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, *Heads]:
        residual = self.previous.feed_forward(attention, residual)
        return residual, *self.following.heads(residual, cos, sin)


class Closing(nn.Module):
    """The last layer's attention → normalised hidden states [T, H]."""

    def __init__(self, last: Layer, norm: nn.Module) -> None:
        super().__init__()
        self.last, self.norm = last, norm

    def forward(self, attention: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.last.feed_forward(attention, residual))
        return normed


class Decoder(nn.Module):
    """All of a model's weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # from_pretrained, for the plain constructor draws random numbers: seconds, even on the meta device.
        self.embed = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            torch.empty(config.vocab_size, config.hidden_size)
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = NORMS.find(config.norm)(config.hidden_size, config.rms_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tied = config.tie_word_embeddings

    @classmethod
    def load(cls, config: ModelConfig, weights: Mapping[str, Tensor]) -> "Decoder":
        """Takes the tensors as they are, without a copy.

        Raises RuntimeError or KeyError naming what is missing, has no place, or has another shape.
        """
        with torch.device("meta"):
            decoder = cls(config)
        tensors = dict(weights)
        if decoder.tied:
            tensors["head.weight"] = tensors["embed.weight"]
        decoder.load_state_dict(tensors, assign=True)
        return decoder.requires_grad_(False).eval()

    def segments(self) -> "Segments":
        """Modules that share this decoder's weights."""
        layers = [layer for layer in self.layers if isinstance(layer, Layer)]
        middles = [Middle(previous, following) for previous, following in pairwise(layers)]
        return Segments(self.embed, Opening(layers[0]), middles, Closing(layers[-1], self.norm), self.head)


@dataclass(frozen=True)
class Segments:
    """The segments in the order they run: modules, or whatever a backend compiled them to.

    `embed`: tokens int64 [T] → [T, H]; `head`: hidden states [N, H] → logits [N, vocabulary].
    """

    embed: Callable[[Tensor], Tensor]
    opening: Callable[[Tensor, Tensor, Tensor], Heads]
    middles: Sequence[Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, *Heads]]]
    closing: Callable[[Tensor, Tensor], Tensor]
    head: Callable[[Tensor], Tensor]

    def hidden(self, tokens: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Tokens int64 [T], cos and sin [T, head_dim] → normalised hidden states [T, H]."""
        residual = self.embed(tokens)
        query, key, value = self.opening(residual, cos, sin)
        for index, middle in enumerate(self.middles):
            attention = attend(index, query, key, value)
            residual, query, key, value = middle(attention, residual, cos, sin)
        return self.closing(attend(len(self.middles), query, key, value), residual)
