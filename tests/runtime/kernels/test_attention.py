"""Paged attention equals attention written out, over shuffled blocks, mixed chunks and sliding windows."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from runtime.batch import Batch
from runtime.kernels.attention import KVCache, PagedAttention
from runtime.kernels.tiled import TiledAttention
from runtime.model.config import ModelConfig, RopeConfig
from runtime.request import Delta, Request
from runtime.sampling import SamplingParams
from runtime.scheduler import Chunk
from runtime.text import Detokenizer

Attention = type[PagedAttention] | type[TiledAttention]

BLOCK = 16
HEADS, KV_HEADS, DIM = 6, 2, 8


def config(window: int | None) -> ModelConfig:
    return ModelConfig(
        hidden_size=48,
        intermediate_size=8,
        num_layers=1,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=DIM,
        vocab_size=8,
        rms_norm_eps=1e-5,
        max_position_embeddings=2048,
        rope=RopeConfig(),
        windows=(window,),
    )


def request(length: int, blocks: list[int]) -> Request:
    def deliver(delta: Delta) -> None:
        raise AssertionError("attention delivers nothing")

    class Silent:
        def decode(self, ids: object) -> str:
            return ""

    made = Request(tuple([1] * length), SamplingParams(), 1, deliver, Detokenizer(Silent().decode))
    made.blocks = blocks
    return made


def written_out(query: Tensor, keys: Tensor, values: Tensor, start: int, window: int | None) -> Tensor:
    """One query at a time."""
    keys, values = (rows.repeat_interleave(HEADS // KV_HEADS, dim=1) for rows in (keys, values))
    rows = []
    for offset, position in enumerate(range(start, start + len(query))):
        first = 0 if window is None else max(0, position - window + 1)
        seen = slice(first, position + 1)
        scores = torch.einsum("lhd,hd->lh", keys[seen], query[offset]) / math.sqrt(DIM)
        rows.append(torch.einsum("lh,lhd->hd", scores.softmax(0), values[seen]).flatten())
    return torch.stack(rows)


# (tokens computed before, tokens of this chunk): decodes, a prompt, chunks beyond a tile, drafts, a decode at the end
PLAN = [(0, 1), (37, 1), (15, 1), (0, 20), (13, 40), (100, 300), (511, 1), (700, 3), (20, 3), (600, 1), (1007, 1)]


def number(how: str, counts: list[int]) -> list[list[int]]:
    """Block tables of so many blocks each: side by side, shuffled, or both by turns."""
    total = sum(counts)
    blocks = list(range(total))
    if how == "shuffled":
        blocks = torch.randperm(total, generator=torch.Generator().manual_seed(0)).tolist()
    tables = [[blocks.pop(0) for _ in range(count)] for count in counts]
    if how == "mixed":  # the last of a long table changes places with the first of the next
        for table, following in pairwise(tables):
            table[-1], following[0] = following[0], table[-1]
            table[len(table) // 3], following[-1] = following[-1], table[len(table) // 3]
    return tables


@pytest.mark.parametrize("attention", [PagedAttention, TiledAttention])
@pytest.mark.parametrize("window", [None, 5, 300])
@pytest.mark.parametrize("how", ["side by side", "shuffled", "mixed"])
def test_equals_attention_written_out(how: str, attention: Attention, window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    tables = number(how, [-(-(start + count) // BLOCK) for start, count in PLAN])
    kv = KVCache(config(window), sum(map(len, tables)), BLOCK, torch.float32, torch.device("cpu"))
    kv.keys.fill_(torch.nan)
    kv.values.fill_(torch.nan)
    chunks, queries, keys, values = [], [], [], []
    for (start, count), blocks in zip(PLAN, tables, strict=True):
        q, k, v = (
            torch.randn(n, h, DIM, generator=generator)
            for n, h in ((count, HEADS), (start + count, KV_HEADS), (start + count, KV_HEADS))
        )
        first = 0
        if window is not None and attention is TiledAttention:  # which does not read a block that no window reaches
            first = max(0, start - window + 1) // BLOCK * BLOCK
        for position in range(first, start):
            slot = blocks[position // BLOCK] * BLOCK + position % BLOCK
            kv.keys[0, slot], kv.values[0, slot] = k[position], v[position]
        chunks.append(Chunk(request(start + count, blocks), start, count))
        queries.append(q)
        keys.append(k)
        values.append(v)

    attend = attention(config(window), kv, Batch.of(chunks, BLOCK, torch.device("cpu")))
    new_keys, new_values = (torch.cat([x[s:] for x, (s, _) in zip(rows, PLAN, strict=True)]) for rows in (keys, values))
    got = attend(0, torch.cat(queries), new_keys, new_values)

    want = [written_out(q, k, v, s, window) for q, k, v, (s, _) in zip(queries, keys, values, PLAN, strict=True)]
    torch.testing.assert_close(got, torch.cat(want), rtol=1e-5, atol=1e-5)
