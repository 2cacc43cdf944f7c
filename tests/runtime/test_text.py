from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from runtime.text import Decode, Detokenizer, continuation
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
    detokenizer = Detokenizer(decoder.decode, stop)
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
    detokenizer = Detokenizer(Bytes().decode, ["END"])
    assert [detokenizer.push(byte) for byte in b"goEN"] == ["g", "o", "", ""]
    assert detokenizer.push(ord("D")) == ""
    assert detokenizer.stopped
    assert detokenizer.push(ord("x")) == ""
    assert detokenizer.finish() == ""


def test_what_was_held_back_comes_out_when_it_is_no_stop_string() -> None:
    detokenizer = Detokenizer(Bytes().decode, ["END"])
    assert "".join(detokenizer.push(byte) for byte in b"ENx") == "ENx"
    assert [detokenizer.push(byte) for byte in b"EN"] == ["", ""]
    assert detokenizer.finish() == "EN"


PIECES = ("▁", "▁the", "▁fox", "the", "fox", "x", "▁▁", "\n", "ü")


def metaspace() -> Tokenizer:
    """As Llama 2's: spaces are part of tokens, unknown characters are bytes, and a text's first space is dropped."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    vocab = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<s>", "</s>")])
    return tokenizer


META = metaspace()
HARD = (
    "👩\u200d👩\u200d👧\u200d👦",
    "🏳\ufe0f\u200d🌈",
    "漢字かな交じり文",
    "e\u0301a\u0308\u0323",
    "नमस्ते",
    "🇯🇵🇩🇪",
    "\u202eabc\u202c",
    "a\u00a0b",
    "\u0000é",
)


def joined(decode: Decode, ids: Sequence[int], stop: Sequence[str] = (), **options: Any) -> str:
    detokenizer = Detokenizer(decode, stop, **options)
    return "".join([*(detokenizer.push(token) for token in ids), detokenizer.finish()])


def piece_ids(*names: str) -> list[int]:
    return [META.token_to_id(name) for name in names]


@pytest.mark.parametrize("text", HARD)
@pytest.mark.parametrize("decoder", [Bytes(), ByteFallback(), FAST])
def test_no_piece_of_hard_text_holds_half_a_character(decoder: Bytes | ByteFallback | Fast, text: str) -> None:
    ids = list(text.encode()) if decoder is not FAST else FAST.tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) > len(text), "characters are split"
    got = pieces(decoder, ids)
    assert "".join(got) == text
    assert not any("\ufffd" in piece for piece in got)
    assert got[-1] == "", "nothing was held back"


@given(st.lists(st.sampled_from([*PIECES, "</s>", *HARD[:4]]), max_size=20), st.booleans())
def test_a_metaspace_tokenizer_joins_to_the_whole(parts: list[str], hidden: bool) -> None:
    ids: list[int] = []
    for part in parts:
        known = META.token_to_id(part)
        ids += [3 + byte for byte in part.encode()] if known is None else [known]
    decode = partial(META.decode, skip_special_tokens=hidden)
    assert joined(decode, ids) == decode(ids)


def test_only_the_first_space_of_an_answer_is_dropped_as_the_tokenizer_does() -> None:
    ids = piece_ids("▁the", "▁fox", "▁", "▁the")
    assert pieces_of(ids) == ["the", " fox", " ", " the", ""]
    assert pieces_of(piece_ids("▁", "▁the")) == ["", " the", ""]
    assert pieces_of(piece_ids("</s>", "▁the", "</s>", "▁fox")) == ["", "the", "", " fox", ""]


def test_the_space_between_prompt_and_answer_is_kept() -> None:
    assert pieces_of(piece_ids("▁the", "▁fox"), piece_ids("▁fox")) == [" the", " fox", ""]
    assert pieces_of(piece_ids("▁the"), piece_ids("</s>")) == ["the", ""], "a text begins here"
    decode = partial(META.decode, skip_special_tokens=True)
    assert continuation(decode, piece_ids("▁fox"), piece_ids("▁the")) == " the"


def test_a_character_that_began_in_the_prompt_is_the_answers_own_bytes() -> None:
    first, *rest = "é!".encode()
    assert joined(Bytes().decode, rest, prompt=[first]) == Bytes().decode(rest)


def pieces_of(ids: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    detokenizer = Detokenizer(partial(META.decode, skip_special_tokens=True), prompt=prompt)
    return [detokenizer.push(token) for token in ids] + [detokenizer.finish()]


@pytest.mark.parametrize("hidden", [True, False])
def test_special_tokens_are_hidden_or_shown(hidden: bool) -> None:
    tokenizer = FAST.tokenizer
    text = "the fox<|im_end|> jumps<|im_start|>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    got = joined(partial(tokenizer.decode, skip_special_tokens=hidden), ids)
    assert got == ("the fox jumps" if hidden else text)


def test_a_hidden_token_within_a_character_does_not_break_it() -> None:
    face = FAST.tokenizer.encode("😀", add_special_tokens=False)
    assert pieces(FAST, [face[0], 2, *face[1:]])[-2:] == ["😀", ""]


@pytest.mark.parametrize("token", [2, "invalid"])
def test_a_long_run_without_text_costs_the_same_for_every_token(token: int | str) -> None:
    """EOS tokens under ignore_eos; bytes that no character begins with."""
    invalid = next(index for index in range(3, 320) if FAST.decode([index]) == "\ufffd")
    ids = [invalid if token == "invalid" else 2] * 3000
    sizes: list[int] = []

    def decode(window: Sequence[int]) -> str:
        sizes.append(len(window))
        return FAST.decode(window)

    after = FAST.tokenizer.encode(" fox", add_special_tokens=False)
    assert joined(decode, [*after, *ids, *after]) == FAST.decode([*after, *ids, *after])
    assert sum(sizes) < 100 * len(ids)


@given(st.lists(st.sampled_from(["é", "😀", "漢", b"\x80", b"\xff", b"\xf0\x9f", b"\xe6\xbc"]), max_size=120))
def test_long_runs_of_broken_characters_join_to_the_whole(parts: list[str | bytes]) -> None:
    ids = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    got = pieces(Bytes(), ids)
    assert "".join(got) == Bytes().decode(ids)


@given(st.lists(st.integers(0, 319), min_size=30, max_size=200))
def test_a_real_tokenizer_joins_to_the_whole_of_a_long_answer(ids: list[int]) -> None:
    assert joined(FAST.decode, ids) == FAST.decode(ids)


@pytest.mark.parametrize(
    ("stops", "shown", "stopped"),
    [
        (["jumps", "fox j"], "the ", "fox j"),  # complete first
        (["fox jumps", "jumps"], "the ", "fox jumps"),  # complete at once: the first in the list
        (["jumps", "fox jumps"], "the fox ", "jumps"),
        (["never", "jump"], "the fox ", "jump"),
        (["never"], "the fox jumps", None),
        (["the"], "", "the"),
        (["", "fox"], "the ", "fox"),
    ],
)
def test_of_several_stop_strings_the_one_complete_first_counts(
    stops: list[str], shown: str, stopped: str | None
) -> None:
    detokenizer = Detokenizer(Bytes().decode, stops)
    text = "".join([*(detokenizer.push(byte) for byte in b"the fox jumps"), detokenizer.finish()])
    assert (text, detokenizer.stopped) == (shown, stopped)
    with_it = joined(Bytes().decode, b"the fox jumps", stops, include_stop=True)
    assert with_it == shown + (stopped or "")


def test_a_stop_string_in_the_middle_of_a_token_cuts_it() -> None:
    ids = FAST.tokenizer.encode("over the lazy dog", add_special_tokens=False)
    assert joined(FAST.decode, ids, ["azy"]) == "over the l"
    assert joined(FAST.decode, ids, ["azy"], include_stop=True) == "over the lazy"


def test_a_stop_string_of_characters_in_several_tokens() -> None:
    assert joined(Bytes().decode, "go 漢字 on".encode(), ["漢字"]) == "go "


def test_a_stop_string_that_only_the_end_completes() -> None:
    """The last bytes are no character, so that they are shown, and looked at, at the end alone."""
    detokenizer = Detokenizer(Bytes().decode, ["b\ufffd"])
    assert [detokenizer.push(byte) for byte in b"ab\xe6"] == ["a", "", ""]
    assert detokenizer.finish() == ""
    assert detokenizer.stopped == "b\ufffd"


def test_text_that_was_not_watched_begins_no_stop_string() -> None:
    detokenizer = Detokenizer(Bytes().decode, ["END"])
    assert [detokenizer.push(byte, watch=False) for byte in b"ENDEN"] == list("ENDEN")
    assert [detokenizer.push(byte) for byte in b"DxEND"] == ["D", "x", "", "", ""]
    assert detokenizer.stopped == "END"
