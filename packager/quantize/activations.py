"""A text on its way through the model, a layer at a time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from packager.attention import causal
from packager.quantize.inputs import Inputs
from runtime.model import rope
from runtime.model.config import ModelConfig
from runtime.model.decoder import Layer
from runtime.model.quantization import LINEARS, dequantized


class Activations:
    """The residual of every token of some sequences, float32 [T, H], between two layers."""

    def __init__(self, config: ModelConfig, sequences: Sequence[Sequence[int]], embedding: Tensor) -> None:
        self._config = config
        self.lengths = [len(sequence) for sequence in sequences]
        tokens = torch.tensor([token for sequence in sequences for token in sequence])
        self.residual = embedding[tokens].float()
        tables = rope.tables(config.rope, config.head_dim, max(self.lengths))
        self._cos, self._sin = (torch.cat([table[:length] for length in self.lengths]) for table in tables)

    def advance(self, layer: Layer, window: int | None) -> None:
        """Through one decoder layer, whose attention may have a sliding window."""
        heads = layer.heads(self.residual, self._cos, self._sin)
        queries, keys, values = (torch.split(part, self.lengths) for part in heads)
        attended = [causal(q, k, v, window) for q, k, v in zip(queries, keys, values, strict=True)]
        self.residual = layer.feed_forward(torch.cat(attended), self.residual)


def layer(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Layer:
    """A layer that computes in float32 with these weights, as an engine stores them, named as in layout.layer."""
    with torch.device("meta"):
        made = Layer(config)
    made.load_state_dict(dequantized(tensors, torch.float32), assign=True)
    return made.requires_grad_(False).eval()


@contextmanager
def recorded(layer: Layer, *, with_gram: bool) -> Iterator[dict[str, Inputs]]:
    """What each of a layer's linear layers is given while the body runs, by its name."""
    inputs: dict[str, Inputs] = {}

    def recorder(name: str) -> Any:
        def record(module: nn.Module, args: tuple[Tensor]) -> None:
            inputs[name] = Inputs.of(args[0], with_gram=with_gram)

        return record

    hooks = [layer.get_submodule(name).register_forward_pre_hook(recorder(name)) for name in LINEARS]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()
