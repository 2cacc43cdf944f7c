"""Attention over a paged KV cache with PyTorch's own kernels, for any device."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from runtime.batch import Batch
from runtime.model.config import ModelConfig


class KVCache:
    """Keys and values of every layer, each [slots, KV heads, head_dim]; slots = blocks * block_size.

    `layers` are pairs of views of `keys` and `values`.

    Unwritten slots hold anything, NaN included, so attention must not even read what it masks: see `_group`.
    """

    def __init__(
        self, config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_layers, num_blocks * block_size, config.num_kv_heads, config.head_dim)
        self.block_size = block_size
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.layers = list(zip(self.keys.unbind(), self.values.unbind(), strict=True))

    @staticmethod
    def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
        """Bytes of one block over all layers, keys and values."""
        return 2 * config.num_layers * block_size * config.kv_size * dtype.itemsize


# Rows of a chunk attended at once: bounds the mask's memory, and a tile reads no keys beyond its own end.
_TILE = 256
# Chunks of so many queries at most are attended together with their like.
FEW = 16


@dataclass(frozen=True)
class _Group:
    """Rows attended together, the same number for each of B requests.

    `slots` int64 [B, L]: where their tokens' keys and values lie; `positions` int64 [B, queries].
    """

    slots: Tensor
    positions: Tensor


class Attention(ABC):
    """Attention of one step, group by group; what its layout alone decides is prepared once for all layers."""

    def __init__(self, config: ModelConfig, kv: KVCache, batch: Batch) -> None:
        self._config, self._kv, self._batch = config, kv, batch
        self._groups = tiles(batch)
        self._shared = config.num_heads // config.num_kv_heads

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, /) -> Tensor:
        """Writes this step's keys and values, then attends. Shapes: runtime.model.decoder.Attend."""
        keys, values = self._kv.layers[layer]
        keys.index_copy_(0, self._batch.slots, key)
        values.index_copy_(0, self._batch.slots, value)
        window, parts = self._config.windows[layer], list[Tensor]()
        for index, (members, rows) in enumerate(self._groups):
            out = self._attend(index, self._by_kv_head(query[rows], len(members)), keys, values, window)
            parts.append(self._by_query(out, rows.stop - rows.start))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @abstractmethod
    def _attend(self, index: int, q: Tensor, keys: Tensor, values: Tensor, window: int | None) -> Tensor:
        """Of the group `index`: q [B, KV heads, rows, dim] → the same shape; keys, values [slots, KV heads, dim]."""

    def _by_kv_head(self, query: Tensor, requests: int) -> Tensor:
        """[B * queries, heads, dim] → [B, KV heads, shared * queries, dim].

        The query heads that share a KV head become rows of one matrix, so keys are read once for all of them.
        """
        kv_heads, dim = self._config.num_kv_heads, self._config.head_dim
        if len(query) == requests:
            return query.view(requests, kv_heads, self._shared, dim)
        q = query.view(requests, -1, kv_heads, self._shared, dim).permute(0, 2, 3, 1, 4)
        return q.reshape(requests, kv_heads, -1, dim)

    def _by_query(self, out: Tensor, count: int) -> Tensor:
        """What `_by_kv_head` made → [B * queries, heads * dim]."""
        requests, kv_heads, _, dim = out.shape
        if count > requests:
            out = out.view(requests, kv_heads, self._shared, -1, dim).permute(0, 3, 1, 2, 4)
        return out.reshape(count, self._config.q_size)


class PagedAttention(Attention):
    """Decodes in one call, each longer chunk in tiles of its own. On a CPU: TiledAttention."""

    def __init__(self, config: ModelConfig, kv: KVCache, batch: Batch) -> None:
        super().__init__(config, kv, batch)
        self._gathers = [self._group(members, rows) for members, rows in self._groups]
        self._mask = cache(self._make_mask)

    def _attend(self, index: int, q: Tensor, keys: Tensor, values: Tensor, window: int | None) -> Tensor:
        k, v = (cached[self._gathers[index].slots].transpose(1, 2) for cached in (keys, values))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask(index, window))

    def _make_mask(self, index: int, window: int | None) -> Tensor:
        """Additive [B, 1, shared * queries, L]: a query sees positions up to its own, within its window."""
        group = self._gathers[index]
        columns = torch.arange(group.slots.shape[1], device=group.slots.device)
        seen = columns <= group.positions.unsqueeze(-1)
        if window is not None:
            seen &= columns > group.positions.unsqueeze(-1) - window
        mask = torch.zeros(seen.shape, dtype=self._kv.keys.dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
        return mask.repeat(1, self._shared, 1).unsqueeze(1)

    def _group(self, members: range, rows: slice) -> _Group:
        batch, size, device = self._batch, self._kv.block_size, self._batch.slots.device
        behind = batch.query_starts[members.stop] - rows.stop  # rows of the chunk that later tiles attend
        ends = [batch.lengths[r] - behind for r in members]
        width = -(-max(ends) // size)
        tables = [(table := batch.block_tables[r])[:width] + table[:1] * (width - len(table)) for r in members]
        # Past its own end a request reads its own last token: masked or not, 0 * NaN from elsewhere is NaN.
        last = torch.tensor(ends, device=device).unsqueeze(1) - 1
        columns = torch.minimum(torch.arange(max(ends), device=device), last)
        blocks = torch.tensor(tables, device=device).gather(1, columns // size)
        positions = batch.positions[rows].view(len(members), -1)
        return _Group(blocks * size + columns % size, positions)


def tiles(batch: Batch) -> list[tuple[range, slice]]:
    """Which requests, and which of their rows, are attended together.

    Neighbours with the same few queries each (decodes, and drafts that are verified), or part of one chunk.
    """
    groups: list[tuple[range, slice]] = []
    starts, index = batch.query_starts, 0
    counts = [end - start for start, end in pairwise(starts)]
    while index < len(counts):
        end = index + 1
        if counts[index] <= FEW:
            while end < len(counts) and counts[end] == counts[index]:
                end += 1
            groups.append((range(index, end), slice(starts[index], starts[end])))
        else:
            for row in range(starts[index], starts[end], _TILE):
                groups.append((range(index, end), slice(row, min(row + _TILE, starts[end]))))
        index = end
    return groups
