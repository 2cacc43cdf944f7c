"""Texts become token sequences such as the model sees: never empty, each with its BOS, no more than asked for."""

from pathlib import Path

import pytest

from packager.errors import TrtpackError
from packager.quantize import text

BOS, EOS = 1, 2


def characters(given: str) -> list[int]:
    return [ord(character) for character in given]


def with_ends(given: str) -> list[int]:
    return [BOS, *characters(given), EOS]


def test_a_text_is_cut_into_sequences() -> None:
    assert text.sequences("abcdefgh", characters, 3) == [characters(part) for part in ("abc", "def", "gh")]


def test_a_single_token_at_the_end_predicts_nothing() -> None:
    assert text.sequences("abcdefg", characters, 3) == [characters("abc"), characters("def")]


def test_every_sequence_starts_with_the_bos() -> None:
    found = text.sequences("abcdef", with_ends, 4)
    assert found == [[BOS, *characters("abc")], [BOS, *characters("def")], [BOS, EOS]]


def test_an_end_token_alone_is_no_start() -> None:
    assert text.sequences("abc", lambda given: [*characters(given), EOS], 4) == [[*characters("abc"), EOS]]


def test_a_long_text_is_not_read_to_its_end() -> None:
    read: list[int] = []

    def encode(given: str) -> list[int]:
        read.append(len(given))
        return characters(given)

    found = text.sequences("x" * 10_000, encode, 10, most=50)
    assert sum(map(len, found)) == 50
    assert max(read) == 800


def test_too_short_a_text_is_refused() -> None:
    with pytest.raises(TrtpackError, match="1 tokens, too few"):
        text.sequences("a", characters, 8)


def test_the_users_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Grüße", encoding="utf-8")
    assert text.calibration(path) == "Grüße"


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b" \n\t", "is empty"), (b"\xff\xfe\x00", "is not UTF-8")]
)
def test_what_is_no_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(TrtpackError, match=f"{path} {message}"):
        text.calibration(path)


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrtpackError, match=r"missing\.txt cannot be read: No such file"):
        text.calibration(tmp_path / "missing.txt")


def test_the_shipped_texts_share_nothing() -> None:
    calibration, evaluation = (set(given.split("\n\n")) for given in (text.calibration(), text.evaluation()))
    assert calibration & evaluation <= {"---", "```"}
    assert len(text.calibration()) > len(text.evaluation()) > 9_000
