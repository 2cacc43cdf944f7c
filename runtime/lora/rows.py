"""Which rows of a step are for which adapter."""

from collections import defaultdict
from itertools import chain, pairwise

import torch
from torch import Tensor

from runtime.batch import Batch

Index = slice | Tensor


class Rows:
    """Worked out once a step, and read by every layer: `shares` has an entry for each adapter in the batch.

    An index is a slice where an adapter's requests are neighbours, else int64 [rows].
    """

    def __init__(self) -> None:
        self.shares: list[tuple[str, Index]] = []

    def follow(self, batch: Batch) -> None:
        """Takes the step that comes next."""
        spans: dict[str, list[range]] = defaultdict(list)
        for name, (start, end) in zip(batch.adapters, pairwise(batch.query_starts), strict=True):
            if name:
                spans[name].append(range(start, end))
        self.shares = [(name, _index(several, batch.tokens.device)) for name, several in spans.items()]


def _index(spans: list[range], device: torch.device) -> Index:
    if all(before.stop == after.start for before, after in pairwise(spans)):
        return slice(spans[0].start, spans[-1].stop)
    return torch.tensor(list(chain.from_iterable(spans)), device=device)
