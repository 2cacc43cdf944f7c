from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.text import Detokenizer
from tests.tiny import make_tokenizer


class Bytes:
    """Every token is one byte: each multi-byte character is split as far as it can be."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


class ByteFallback:
    """As Llama 2's: a run of byte tokens that is no text becomes one U+FFFD a byte."""

    def decode(self, ids: Sequence[int]) -> str:
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return "".join(chr(i) if i < 128 else "\ufffd" for i in ids)


class Fast:
    def __init__(self) -> None:
        self.tokenizer = make_tokenizer()

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


FAST = Fast()


def pieces(decoder: Bytes | ByteFallback | Fast, ids: Sequence[int], stop: Sequence[str] = ()) -> list[str]:
    detokenizer = Detokenizer(decoder, stop)
    return [detokenizer.push(token) for token in ids] + [detokenizer.finish()]


@given(st.text(max_size=40))
@pytest.mark.parametrize("decoder", [Bytes(), ByteFallback()])
def test_pieces_are_whole_characters_and_join_to_the_text(decoder: Bytes | ByteFallback, text: str) -> None:
    got = pieces(decoder, text.encode())
    assert "".join(got) == text
    assert all("\ufffd" not in piece for piece in got) or "\ufffd" in text


@given(st.lists(st.integers(0, 255), max_size=40))
def test_bytes_that_are_no_text_still_join_to_the_whole(ids: list[int]) -> None:
    assert "".join(pieces(Bytes(), ids)) == Bytes().decode(ids)


@given(st.lists(st.integers(0, 319), max_size=40))
def test_a_real_tokenizer_joins_to_the_whole(ids: list[int]) -> None:
    assert "".join(pieces(FAST, ids)) == FAST.decode(ids)


def test_text_is_shown_as_soon_as_it_is_whole() -> None:
    assert pieces(Bytes(), "né!".encode()) == ["n", "", "é", "!", ""]


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_no_part_of_a_stop_string_is_shown(text: str, stops: list[str]) -> None:
    cut = min((text.find(stop) for stop in stops if stop in text), default=len(text))
    got = pieces(Bytes(), text.encode(), stops)
    shown = "".join(got)
    # A stop string that completes first wins, so text may only be cut where some stop string begins.
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if cut == len(text):
        assert shown == text
    else:
        assert any(text[len(shown) :].startswith(stop) for stop in stops)


def test_a_stop_string_across_tokens_is_held_back() -> None:
    detokenizer = Detokenizer(Bytes(), ["END"])
    assert [detokenizer.push(byte) for byte in b"goEN"] == ["g", "o", "", ""]
    assert detokenizer.push(ord("D")) == ""
    assert detokenizer.stopped
    assert detokenizer.push(ord("x")) == ""
    assert detokenizer.finish() == ""


def test_what_was_held_back_comes_out_when_it_is_no_stop_string() -> None:
    detokenizer = Detokenizer(Bytes(), ["END"])
    assert "".join(detokenizer.push(byte) for byte in b"ENx") == "ENx"
    assert [detokenizer.push(byte) for byte in b"EN"] == ["", ""]
    assert detokenizer.finish() == "EN"
