"""Which tokens a draw is from: min_p, top_k and top_p as lower bounds on the logits.

Bounds, not ranks: tokens of equal logits, frequent in bfloat16, are all in or all out, so what is drawn does not hang
on the order in which a sort leaves them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.sampling.params import SamplingParams

# Nearly always enough tokens to make up top_p, and much cheaper to find than the order of a whole vocabulary.
_CANDIDATES = 1024


def filtered(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Logits float32 [rows, vocabulary], at most 0, with -inf for what is out; in the order min_p, top_k, top_p."""
    for name, bounds in (("min_p", _min_p), ("top_k", _top_k), ("top_p", _top_p)):
        values = [getattr(row, name) for row in params]
        rows = [index for index, value in enumerate(values) if value != getattr(SamplingParams, name)]
        if not rows:
            continue
        index = torch.tensor(rows, device=logits.device)
        part = logits[index]
        bound = bounds(part, [values[row] for row in rows])
        logits = logits.index_copy(0, index, part.masked_fill_(part < bound, -torch.inf))
    return logits


def _min_p(logits: Tensor, shares: Sequence[float]) -> Tensor:
    """A share of the likeliest token's probability (Nguyen et al., arXiv:2407.01082)."""
    return logits.new_tensor(shares).log().unsqueeze(1) + logits.amax(-1, keepdim=True)


def _top_k(logits: Tensor, counts: Sequence[int]) -> Tensor:
    vocabulary = logits.shape[-1]
    wanted = [min(count, vocabulary) for count in counts]
    best = logits.topk(max(wanted)).values
    return best.gather(1, torch.tensor(wanted, device=logits.device).unsqueeze(1) - 1)


def _top_p(logits: Tensor, masses: Sequence[float]) -> Tensor:
    """The fewest likeliest tokens whose probabilities make up the mass (Holtzman et al., arXiv:1904.09751)."""
    total = logits.logsumexp(-1, keepdim=True)
    mass = logits.new_tensor(masses).unsqueeze(1)
    best = logits.topk(min(_CANDIDATES, logits.shape[-1])).values
    if ((best - total).exp().sum(-1, keepdim=True) < mass).any():
        best = logits.sort(-1, descending=True).values
    probabilities = (best - total).exp()
    before = probabilities.cumsum(-1) - probabilities
    # The likeliest always stays, also where rounding puts what is before it at the mass.
    last = (before < mass).sum(-1, keepdim=True).clamp_min(1) - 1
    return best.gather(1, last)
