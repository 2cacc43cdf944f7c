"""Attention by its definition, without a cache: what the runtime's is compared with, and calibration runs on."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def causal(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    """Of one whole sequence, in the shapes of runtime.model.decoder.Attend; a window may bound what a token sees."""
    q, k, v = (heads.transpose(0, 1).unsqueeze(0) for heads in (query, key, value))
    length, mask = len(query), None
    if window is not None and window < length:
        mask = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    return out.squeeze(0).transpose(0, 1).flatten(1)
