"""Rows: an adapter's rows of a step, across its requests."""

import pytest
import torch

from runtime.batch import Batch
from runtime.lora.rows import Rows


def batch(*requests: tuple[str, int]) -> Batch:
    """Of an adapter and a number of tokens each."""
    starts = [0]
    for _, count in requests:
        starts.append(starts[-1] + count)
    rows = torch.arange(starts[-1])
    return Batch(
        rows, rows, rows, starts, [[]] * len(requests), starts[1:], rows[:0], [], [name for name, _ in requests]
    )


def shares(*requests: tuple[str, int]) -> dict[str, list[int]]:
    rows = Rows()
    rows.follow(batch(*requests))
    whole = torch.arange(sum(count for _, count in requests))
    return {name: whole[index].tolist() for name, index in rows.shares}


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([("", 3), ("", 1)], {}),
        ([("a", 2)], {"a": [0, 1]}),
        ([("a", 1), ("a", 2), ("b", 1)], {"a": [0, 1, 2], "b": [3]}),
        ([("a", 1), ("", 2), ("a", 2), ("b", 1), ("a", 1)], {"a": [0, 3, 4, 6], "b": [5]}),
    ],
)
def test_each_has_the_rows_of_its_requests(requests: list[tuple[str, int]], expected: dict[str, list[int]]) -> None:
    assert shares(*requests) == expected


def test_neighbours_are_a_slice() -> None:
    rows = Rows()
    rows.follow(batch(("", 1), ("a", 2), ("a", 1), ("", 1)))
    assert rows.shares == [("a", slice(1, 4))]
