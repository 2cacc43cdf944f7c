"""Activations of the gated MLP, under the names that a checkpoint's `hidden_act` uses."""

from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from runtime.model.extension import Registry

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: Registry[Activation] = Registry("activation", {"silu": F.silu})


def activation(name: str) -> Callable[[Activation], Activation]:
    """Registers any function of tensors [T, intermediate] → the same shape and dtype, made of torch's operators."""
    return ACTIVATIONS.register(name)
