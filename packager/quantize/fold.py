"""Scales of a linear layer's inputs, folded into the layer before it, so that the model computes what it did.

The inputs are divided by a scale and the layer's columns multiplied by it: channels that matter round more finely
(AWQ, arXiv:2306.00978), or outliers move from activations to weights (SmoothQuant, arXiv:2211.10438).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from runtime.model.config import ModelConfig
from runtime.model.quantization import LINEARS

# One layer's tensors, float32, by their names in runtime.model.layout.layer.
Tensors = Mapping[str, Tensor]
_NORMS = {"qkv": "input_norm", "gate_up": "mlp_norm"}


def foldable(config: ModelConfig) -> list[str]:
    """The linear layers whose inputs can be scaled, last first: folding one changes the rows of the one before it.

    A norm that the user registered may use its weight in any way, so nothing is folded into it.
    """
    return [name for name in reversed(LINEARS) if name not in _NORMS or config.norm == "rms"]


def fold(
    tensors: Tensors, linear: str, scale: Tensor, config: ModelConfig, dtype: torch.dtype
) -> tuple[dict[str, Tensor], Tensor]:
    """The layer's tensors with `scale` float32 [in] folded in, and the scale that was applied.

    A norm's weight is stored in `dtype`, so what it can be divided by exactly is what its rounding leaves.
    `scale` must be one that `tied` returned.
    """
    folded = dict(tensors)
    if linear in _NORMS:
        norm = f"{_NORMS[linear]}.weight"
        folded[norm] = (tensors[norm] / scale).to(dtype).float()
        scale = torch.where(folded[norm] != 0, tensors[norm] / folded[norm], 1.0)
    elif linear == "down":
        _divide_last_rows(folded, "gate_up", scale)
    else:
        _divide_last_rows(folded, "qkv", _by_kv_head(scale, config)[:, 0].flatten())
    folded[f"{linear}.weight"] = tensors[f"{linear}.weight"] * scale
    return folded, scale


def tied(linear: str, scale: Tensor, config: ModelConfig) -> Tensor:
    """The nearest scale that can be folded: query heads that share a value head must share its channels' scales."""
    if linear != "o":
        return scale
    shared = _by_kv_head(scale, config)
    return shared.log().mean(1, keepdim=True).exp().expand_as(shared).flatten()


def _by_kv_head(scale: Tensor, config: ModelConfig) -> Tensor:
    return scale.view(config.num_kv_heads, -1, config.head_dim)


def _divide_last_rows(tensors: dict[str, Tensor], linear: str, scale: Tensor) -> None:
    for name in (f"{linear}.weight", f"{linear}.bias"):
        if (tensor := tensors.get(name)) is not None:
            kept, divided = tensor.tensor_split([len(tensor) - len(scale)])
            tensors[name] = torch.cat((kept, divided / scale.view(-1, *[1] * (tensor.ndim - 1))))
