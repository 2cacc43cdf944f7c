"""Rounding in which later columns make up for the errors of earlier ones (GPTQ, arXiv:2210.17323)."""

from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK = 64  # columns rounded before their errors reach the columns behind the block


def compensated(
    weight: Tensor, gram: Tensor, tokens: int, noise: float, nearest: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """The rounded weight, float32 [out, in], with the least squared error of outputs that a greedy order finds.

    `gram` [in, in] is the inputs' mean outer product over `tokens` of them. Few tokens correlate by chance, so every
    correlation is shrunk by in / (in + tokens): on SmolLM2 that beat the usual damping by 1 % of the mean power.
    `noise` is the power of an input's own rounding error, as a share of the input's; such errors correlate with
    nothing, and the weight that serves noisy inputs best is a Wiener filter's. `nearest` rounds a column [out], given
    its index.
    """
    power = gram.diagonal().double().clamp_min(torch.finfo(torch.float32).tiny).sqrt()
    order = power.argsort(descending=True)  # the loudest first: most columns are left to make up for them
    power, weight = power[order], weight[:, order]
    clean = gram.double()[order][:, order] * (tokens / (tokens + len(power))) / power / power.unsqueeze(1)
    clean.diagonal().fill_(1.0)
    noisy = clean + noise * torch.eye(len(power), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(noisy))
    left = ((weight.double() * power) @ clean @ inverse / power).float().T.contiguous()
    factor = (torch.linalg.cholesky(inverse, upper=True) / power).float()
    rounded = torch.empty_like(left)
    for start in range(0, len(left), _BLOCK):
        stop = min(start + _BLOCK, len(left))
        errors = torch.empty_like(left[start:stop])
        for column in range(start, stop):
            rounded[column] = nearest(left[column], int(order[column]))
            error = (left[column] - rounded[column]) / factor[column, column]
            left[column + 1 : stop].addr_(factor[column, column + 1 : stop], error, alpha=-1)
            errors[column - start] = error
        left[stop:] -= factor[start:stop, stop:].T @ errors
    restored = torch.empty_like(weight)
    restored[:, order] = rounded.T
    return restored
