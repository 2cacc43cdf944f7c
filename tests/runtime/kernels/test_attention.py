"""Paged attention equals attention written out, over shuffled blocks, mixed chunks and sliding windows."""

import math

import pytest
import torch
from torch import Tensor

from runtime.batch import Batch
from runtime.kernels.attention import KVCache, PagedAttention
from runtime.model.config import ModelConfig, RopeConfig
from runtime.request import Delta, Request
from runtime.sampling import SamplingParams
from runtime.scheduler import Chunk
from runtime.text import Detokenizer

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

    made = Request(tuple([1] * length), SamplingParams(), 1, deliver, Detokenizer(Silent()))
    made.blocks = blocks
    return made


def written_out(query: Tensor, keys: Tensor, values: Tensor, start: int, window: int | None) -> Tensor:
    """One query, one head at a time."""
    rows = []
    for offset in range(len(query)):
        position = start + offset
        first = 0 if window is None else max(0, position - window + 1)
        heads = []
        for head in range(HEADS):
            kv = head // (HEADS // KV_HEADS)
            scores = keys[first : position + 1, kv] @ query[offset, head] / math.sqrt(DIM)
            heads.append(scores.softmax(0) @ values[first : position + 1, kv])
        rows.append(torch.cat(heads))
    return torch.stack(rows)


@pytest.mark.parametrize("window", [None, 5, 300])
def test_equals_attention_written_out(window: int | None) -> None:
    # (tokens computed before, tokens of this chunk): decodes, a prompt, chunks beyond a tile, a decode at the end
    plan = [(0, 1), (37, 1), (15, 1), (0, 20), (13, 40), (100, 300), (600, 1)]
    generator = torch.Generator().manual_seed(0)
    total = sum(-(-(start + count) // BLOCK) for start, count in plan)
    shuffled = torch.randperm(total, generator=generator).tolist()
    kv = KVCache(config(window), total, BLOCK, torch.float32, torch.device("cpu"))
    kv.keys.fill_(torch.nan)
    kv.values.fill_(torch.nan)
    chunks, queries, keys, values = [], [], [], []
    for start, count in plan:
        blocks = [shuffled.pop() for _ in range(-(-(start + count) // BLOCK))]
        q, k, v = (
            torch.randn(n, h, DIM, generator=generator)
            for n, h in ((count, HEADS), (start + count, KV_HEADS), (start + count, KV_HEADS))
        )
        for position in range(start):
            slot = blocks[position // BLOCK] * BLOCK + position % BLOCK
            kv.keys[0, slot], kv.values[0, slot] = k[position], v[position]
        chunks.append(Chunk(request(start + count, blocks), start, count))
        queries.append(q)
        keys.append(k)
        values.append(v)

    attend = PagedAttention(config(window), kv, Batch.of(chunks, BLOCK, torch.device("cpu")))
    new_keys, new_values = (torch.cat([x[s:] for x, (s, _) in zip(rows, plan, strict=True)]) for rows in (keys, values))
    got = attend(0, torch.cat(queries), new_keys, new_values)

    want = [written_out(q, k, v, s, window) for q, k, v, (s, _) in zip(queries, keys, values, plan, strict=True)]
    torch.testing.assert_close(got, torch.cat(want), rtol=1e-5, atol=1e-5)
