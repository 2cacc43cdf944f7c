"""What quantisation costs: how far the next-token distributions move on a text."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from runtime.engine.manifest import Quality

_ROWS = 128  # tokens whose logits are held at once


def measure(
    text: str,
    sequences: Sequence[Sequence[int]],
    reference: Tensor,
    quantized: Tensor,
    logits: Callable[[Tensor], Tensor],
) -> Quality:
    """Compares the last residuals [T, H] of the same sequences, one after the other; `logits` maps rows to [N, V]."""
    targets = [target for sequence in sequences for target in (*sequence[1:], None)]  # the last predicts nothing
    rows = torch.tensor([row for row, target in enumerate(targets) if target is not None])
    wanted = torch.tensor([target for target in targets if target is not None])
    kl = reference_loss = loss = 0.0
    for part, following in zip(torch.split(rows, _ROWS), torch.split(wanted, _ROWS), strict=True):
        exact, actual = (F.log_softmax(logits(residual[part]), dim=-1) for residual in (reference, quantized))
        kl += F.kl_div(actual, exact, reduction="sum", log_target=True).item()
        reference_loss += F.nll_loss(exact, following, reduction="sum").item()
        loss += F.nll_loss(actual, following, reduction="sum").item()
    tokens = len(wanted)
    return Quality(
        text=text,
        tokens=tokens,
        kl=kl / tokens,
        perplexity=math.exp(loss / tokens),
        reference_perplexity=math.exp(reference_loss / tokens),
    )
