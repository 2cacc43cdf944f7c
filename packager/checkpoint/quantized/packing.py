"""Integers out of the words that they are packed in, and real weights out of integers."""

import torch


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [..., n] to uint8 [..., n * 32 / bits], `bits` 4 or 8: the first value is in a word's lowest bits."""
    octets = words.contiguous().view(torch.uint8)
    return octets if bits == 8 else torch.stack((octets & 15, octets >> 4), dim=-1).flatten(-2)


def dequantize(
    values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, group: torch.Tensor, height: int = 1
) -> torch.Tensor:
    """(values - zero) * scale in float32: exact for 16-bit scales, whose products with 8-bit values fit its 24 bits.

    `values` [out, in], of an integer type or float8; `scale` and `zero` [ceil(out / height) or 1, groups], of which
    `height` rows share one row; `group` [in] is the column of both that each input feature has.
    """
    weight = values.to(torch.float32)
    if zero is not None:
        weight -= _spread(zero, group, height, len(values))
    weight *= _spread(scale, group, height, len(values))
    return weight


def _spread(table: torch.Tensor, group: torch.Tensor, height: int, rows: int) -> torch.Tensor:
    """[rows or 1, in or 1], as far as broadcasting does not do it."""
    if height > 1 and len(table) > 1:
        table = table.repeat_interleave(height, 0)[:rows]
    return table if table.shape[1] == 1 else table[:, group]
