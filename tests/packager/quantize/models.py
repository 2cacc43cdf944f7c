"""Tiny engines' tensors, and what the whole model makes of a token sequence, computed at once."""

from pathlib import Path

import torch
from torch import Tensor

from packager.checkpoint import open_checkpoint
from packager.compile import weights
from packager.compile.weights import DTYPES
from runtime.engine.manifest import DType
from runtime.model import rope
from runtime.model.config import ModelConfig
from runtime.model.decoder import Decoder
from tests.tiny import VOCAB


def engine_tensors(folder: Path, dtype: DType = "float32") -> tuple[ModelConfig, dict[str, Tensor]]:
    """A checkpoint folder's model and its tensors in the engine's layout."""
    checkpoint = open_checkpoint(str(folder), folder)
    tensors = {weight.name: weights.merged(checkpoint, weight, dtype) for weight in weights.plan(checkpoint)}
    assert {tensor.dtype for tensor in tensors.values()} == {DTYPES[dtype]}
    return checkpoint.model, tensors


def token_sequences(seed: int, *lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCAB, (length,), generator=generator).tolist() for length in lengths]


def logits(config: ModelConfig, tensors: dict[str, Tensor], tokens: list[int]) -> Tensor:
    """Float32 [T, vocabulary] of one sequence, with attention written out."""
    segments = Decoder.load(config, tensors).segments()
    cos, sin = rope.tables(config.rope, config.head_dim, len(tokens))
    distance = torch.arange(len(tokens)).unsqueeze(1) - torch.arange(len(tokens))

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shared = config.num_heads // config.num_kv_heads
        q, k, v = query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / config.head_dim**0.5
        hidden = (distance < 0) | (distance >= (config.windows[layer] or len(tokens)))
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v).flatten(1)

    with torch.no_grad():
        return segments.head(segments.hidden(torch.tensor(tokens), cos, sin, attend))
