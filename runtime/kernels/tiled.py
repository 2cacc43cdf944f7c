"""Attention over the paged cache on a CPU: in place where blocks lie side by side, else in tiles that fit its caches.

A context is attended in pieces. Each piece's own softmax comes with the logarithm of its sum, by which the pieces
are weighed together (Dao et al. 2022, arXiv:2205.14135, section 3.1). So a step costs the sum of its contexts, and
what it gathers at once is bounded, whatever their number and length.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from runtime.batch import Batch
from runtime.kernels.attention import FEW, Attention, KVCache
from runtime.model.config import ModelConfig

# Measured on an Intel Xeon with AVX512, one thread, 3 KV heads of 64, float32: tiles of 128 keys are as fast as or
# faster than 64, 256 and 512 from batch 1 x 100 tokens to 32 x 1000 (1.4, 2.0, 2.1 and 3.9 ms at 32 x 100).
_TILE = 128
# The queries of a chunk share their tile, and outputs are as large as queries: tiles are long, so that they are few.
_CHUNK_TILE = 2048
# A call costs about 20 us, as much as gathering these keys: shorter runs are gathered with the others.
_RUN = 256
# Bytes of keys gathered at once, for each thread: with as many of values they stay in its level 2 cache.
_PASS_BYTES = 2**19


@dataclass(frozen=True)
class _Pass:
    """N tiles gathered at once. `slots` int64 [N * keys]; `mask` [N, 1, rows, keys].

    `owners` int64 [N]: whose they are; None where each request has one, in their order.
    """

    owners: Tensor | None
    slots: Tensor
    mask: Tensor


@dataclass(frozen=True)
class _Plan:
    """The pieces of a group's contexts: first `views`, each of one request and a range of slots, then the tiles.

    `pieces` int64 [B, P]: which are each request's; where it has fewer than P, `absent` bool [B, P, 1, 1] is true.
    """

    views: list[tuple[int, slice]]
    passes: list[_Pass]
    pieces: Tensor
    absent: Tensor


class TiledAttention(Attention):
    """In place where it can be, else in tiles: see above."""

    def __init__(self, config: ModelConfig, kv: KVCache, batch: Batch) -> None:
        super().__init__(config, kv, batch)
        self._plan = cache(self._make_plan)
        self._memory: dict[str, Tensor] = {}
        self._buffers: dict[tuple[str, int, int], tuple[Tensor, Tensor]] = {}

    def _attend(self, index: int, q: Tensor, keys: Tensor, values: Tensor, window: int | None) -> Tensor:
        plan = self._plan(index, window)
        pieces = [_in_place(q[owner : owner + 1], keys[span], values[span]) for owner, span in plan.views]
        pieces += [self._gathered(q, keys, values, each) for each in plan.passes]
        return _merged(pieces, plan)

    def _gathered(self, q: Tensor, keys: Tensor, values: Tensor, part: _Pass) -> tuple[Tensor, Tensor]:
        into_k, k = self._buffer("keys", keys, part)
        into_v, v = self._buffer("values", values, part)
        torch.index_select(keys, 0, part.slots, out=into_k)
        torch.index_select(values, 0, part.slots, out=into_v)
        return _flash(q if part.owners is None else q.index_select(0, part.owners), k, v, part.mask)

    def _buffer(self, name: str, cached: Tensor, part: _Pass) -> tuple[Tensor, Tensor]:
        """Memory for a pass, the same in every layer: what is new has first to be mapped, page by page.

        [slots, KV heads, dim] to gather into, and the same as [N, KV heads, keys, dim].
        """
        count, tiles_ = len(part.slots), len(part.mask)
        if (found := self._buffers.get((name, count, tiles_))) is None:
            held = self._memory.get(name)
            if held is None or len(held) < count:
                held = self._memory[name] = cached.new_empty(count, *cached.shape[1:])
            flat = held[:count]
            found = self._buffers[name, count, tiles_] = flat, flat.view(tiles_, -1, *cached.shape[1:]).transpose(1, 2)
        return found

    def _make_plan(self, index: int, window: int | None) -> _Plan:
        members, rows = self._groups[index]
        positions = self._batch.positions[rows].view(len(members), -1)
        views: list[tuple[int, slice]] = []
        rest: list[list[int]] = []
        size = self._kv.block_size
        for owner, (request, spoken) in enumerate(zip(members, positions.tolist(), strict=True)):
            table = self._batch.block_tables[request]
            spans, others = _split(table, spoken[0], spoken[-1], window, size, alone=len(members) == 1)
            views += [(owner, span) for span in spans]
            rest.append(others)
        cut, owners = self._cut(rest, chunk=positions.shape[1] > FEW)
        passes = self._passes(members, positions, window, cut, owners) if cut else []
        return _Plan(views, passes, *_places([owner for owner, _ in views] + owners, len(members)))

    def _cut(self, rest: list[list[int]], chunk: bool) -> tuple[list[list[int]], list[int]]:
        """Each request's blocks in tiles of one width, padded with -1; and whose they are."""
        most = (_CHUNK_TILE if chunk else _TILE) // self._kv.block_size
        width = max(1, min(most, max(map(len, rest))))
        cut, owners = list[list[int]](), list[int]()
        for owner, blocks in enumerate(rest):
            for start in range(0, len(blocks), width):
                tile = blocks[start : start + width]
                cut.append(tile + [-1] * (width - len(tile)))
                owners.append(owner)
        return cut, owners

    def _passes(
        self, members: range, positions: Tensor, window: int | None, cut: list[list[int]], owners: list[int]
    ) -> list[_Pass]:
        size = self._kv.block_size
        tables = [self._batch.block_tables[request] for request in members]
        blocks = torch.tensor([[tables[owner][i] for i in tile] for tile, owner in zip(cut, owners, strict=True)])
        indices, whose, offsets = torch.tensor(cut), torch.tensor(owners), torch.arange(size)
        asked, last = positions[whose].unsqueeze(-1), positions[whose, -1:]
        places = torch.where(indices < 0, torch.iinfo(torch.int64).max - size, indices * size)
        columns = (places.unsqueeze(-1) + offsets).flatten(1)
        # Past its own end a request reads its own last token: masked or not, 0 * NaN from elsewhere is NaN.
        ends = zip(tables, positions[:, -1].tolist(), strict=True)
        own = torch.tensor([table[end // size] * size + end % size for table, end in ends])
        slots = (blocks.unsqueeze(-1) * size + offsets).flatten(1)
        slots = torch.where(columns <= last, slots, own[whose].unsqueeze(-1))
        seen = columns.unsqueeze(1) <= asked
        if window is not None:
            seen &= columns.unsqueeze(1) > asked - window
        # Not minus infinity: of a row that sees nothing of a tile, the kernel gives the sum's logarithm as 0.
        dtype = self._kv.keys.dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min / 2)
        mask = mask.repeat(1, self._shared, 1).unsqueeze(1)
        key_bytes = self._config.kv_size * dtype.itemsize * slots.shape[1]
        count = max(1, _PASS_BYTES * torch.get_num_threads() // key_bytes)
        if owners == list(range(len(members))) and len(owners) <= count:
            return [_Pass(None, slots.reshape(-1), mask)]
        parts = zip(*(torch.split(each, count) for each in (whose, slots, mask)), strict=True)
        return [_Pass(o, s.reshape(-1), m) for o, s, m in parts]


def _split(
    table: list[int], first: int, last: int, window: int | None, size: int, alone: bool
) -> tuple[list[slice], list[int]]:
    """Slots that queries at positions `first` … `last` read as they lie, and the indices of the other blocks they read.

    All queries see the whole of a slice. Keys before the first one's window are in neither.
    """
    low, all_low = (0 if window is None else max(0, position - window + 1) for position in (first, last))
    begin, end = (low // size, last // size + 1) if first == last else (-(-all_low // size), (first + 1) // size)
    runs = list(_runs(table, begin, end))
    least = 1 if alone and first == last and len(runs) == 1 else _RUN
    views, others = list[slice](), list(range(low // size, begin))
    for start, stop in runs:
        if (stop - start) * size >= least:
            skipped, unwritten = max(0, low - start * size), max(0, stop * size - last - 1)
            views.append(slice(table[start] * size + skipped, (table[stop - 1] + 1) * size - unwritten))
        else:
            others += range(start, stop)
    others += range(max(begin, end), last // size + 1)
    return views, others


def _runs(table: list[int], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Within start … stop - 1, the ranges of indices whose blocks are numbered one after the other."""
    begin = start
    for index in range(start + 1, stop + 1):
        if index == stop or table[index] != table[index - 1] + 1:
            yield begin, index
            begin = index


def _places(owners: list[int], requests: int) -> tuple[Tensor, Tensor]:
    """A plan's `pieces` and `absent`."""
    found: list[list[int]] = [[] for _ in range(requests)]
    for piece, owner in enumerate(owners):
        found[owner].append(piece)
    most = max(map(len, found))
    pieces = torch.tensor([each + [-1] * (most - len(each)) for each in found])
    return pieces.clamp(min=0), (pieces < 0)[:, :, None, None]


def _in_place(q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Q [1, KV heads, rows, dim] over all of the keys and values [slots, KV heads, dim]."""
    return _flash(q, keys.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0))


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Q [N, KV heads, rows, dim] → the same, and its softmax's log-sum-exp, float32 [N, KV heads, rows]."""
    out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask)
    return out, sums


def _merged(pieces: list[tuple[Tensor, Tensor]], plan: _Plan) -> Tensor:
    """The pieces' outputs weighed by their sums: [B, KV heads, rows, dim]."""
    out, sums = pieces[0] if len(pieces) == 1 else (torch.cat(parts) for parts in zip(*pieces, strict=True))
    if plan.pieces.shape[1] == 1:
        return out if len(pieces) == 1 else out[plan.pieces[:, 0]]
    weights = sums[plan.pieces].masked_fill_(plan.absent, -torch.inf).softmax(1)
    return (out[plan.pieces] * weights.unsqueeze(-1)).sum(1).to(out.dtype)
