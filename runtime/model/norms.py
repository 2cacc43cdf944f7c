"""Norms of the residual stream and, in families that have them, of each head's query and key."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from runtime.errors import EngineError
from runtime.model.extension import Registry


class NormClass(Protocol):
    """Makes the module that normalises tensors of `size` in their last dimension."""

    def __call__(self, size: int, eps: float, /) -> nn.Module: ...


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, in float32 (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        normed: Tensor = self.weight * wide.to(x.dtype)
        return normed


N = TypeVar("N", bound=NormClass)
NORMS: Registry[NormClass] = Registry("norm", {"rms": RMSNorm})


def norm(name: str) -> Callable[[N], N]:
    """Registers a module class of (size, eps) whose one tensor is the parameter `weight` [size]: EngineError else."""
    register = NORMS.register(name)

    def checked(made: N) -> N:
        with torch.device("meta"):
            shapes = {key: list(tensor.shape) for key, tensor in made(8, 1e-6).state_dict().items()}
        if shapes != {"weight": [8]}:
            raise EngineError(f"norm {name!r} must hold one tensor, weight [size]; at size 8 it holds {shapes}")
        register(made)
        return made

    return checked
