"""The tensors of one step: flat, without padding between requests."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.scheduler import Chunk


@dataclass(frozen=True)
class Batch:
    """T tokens of R requests; request r owns rows `query_starts[r]` up to `query_starts[r + 1]`.

    `tokens`, `positions`, `slots`: int64 [T]; a slot is block * block_size + offset in the KV cache.
    `block_tables`: one list of block numbers a request. `lengths`: tokens of each request after this step.
    `logit_rows`: int64 [N], the rows whose logits are wanted: of each of `wanted` so many. `adapters`: one name a
    request, "" for none.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    query_starts: list[int]
    block_tables: list[list[int]]
    lengths: list[int]
    logit_rows: Tensor
    wanted: list[tuple[Chunk, int]]
    adapters: list[str]

    @classmethod
    def of(cls, chunks: Sequence[Chunk], block_size: int, device: torch.device) -> "Batch":
        """The batch of a scheduled step."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts, rows = [0], list[int]()
        wanted: list[tuple[Chunk, int]] = []
        for chunk in chunks:
            request, blocks = chunk.request, chunk.request.blocks
            span = range(chunk.start, chunk.end)
            tokens += request.tokens[chunk.start : chunk.end]
            tokens += request.drafts[: chunk.drafts]
            positions += span
            slots += [blocks[p // block_size] * block_size + p % block_size for p in span]
            starts.append(len(tokens))
            if count := chunk.wanted:
                rows += range(len(tokens) - count, len(tokens))
                wanted.append((chunk, count))

        def tensor(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        return cls(
            tokens=tensor(tokens),
            positions=tensor(positions),
            slots=tensor(slots),
            query_starts=starts,
            block_tables=[chunk.request.blocks for chunk in chunks],
            lengths=[chunk.end for chunk in chunks],
            logit_rows=tensor(rows),
            wanted=wanted,
            adapters=[chunk.request.adapter for chunk in chunks],
        )
