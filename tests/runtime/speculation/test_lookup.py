"""Prompt lookup, on made-up tokens."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.request import Request
from runtime.sampling import SamplingParams
from runtime.speculation import PromptLookup
from runtime.text import Detokenizer


def guess(prompt: Sequence[int], lookup: PromptLookup) -> list[int]:
    request = Request(tuple(prompt), SamplingParams(), 4, lambda delta: None, Detokenizer(lambda ids: ""))
    lookup.propose([request])
    return request.drafts


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([], []),
        ([1], []),
        ([1, 2, 3, 4], []),
        ([1, 2, 3, 9, 1, 2], [3, 9, 1, 2]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),
        ([5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2], [7, 6, 1, 2]),
        ([3, 3, 3], [3]),
        ([2**31, 256, 1, 2**31, 256], [1, 2**31, 256]),
    ],
)
def test_what_followed_the_longest_latest_match(prompt: list[int], expected: list[int]) -> None:
    assert guess(prompt, PromptLookup()) == expected


def test_only_the_window_is_searched() -> None:
    prompt = [1, 2, 3, *range(10, 20), 1, 2]
    assert guess(prompt, PromptLookup(window=13)) == []
    assert guess(prompt, PromptLookup(window=15, tokens=1)) == [3]


@given(st.lists(st.sampled_from([0, 1, 2, 256, 65536]), max_size=30))
def test_as_a_plain_search_finds_it(prompt: list[int]) -> None:
    """The bytes of one token may well look like those of others, moved by one."""
    expected: list[int] = []
    for size in range(min(4, len(prompt) - 1), 1, -1):
        places = [i for i in range(len(prompt) - size) if prompt[i : i + size] == prompt[-size:]]
        if places:
            expected = prompt[places[-1] + size :][:4]
            break
    assert guess(prompt, PromptLookup()) == expected
