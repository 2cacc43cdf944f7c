"""The texts that activations and quality are measured on: prose, dialogue, code, lists, or what the user gives.

The two shipped texts share no passage. They must not change without a new name for the evaluation, for its figures
stand in engines.
"""

from collections.abc import Callable
from pathlib import Path

from packager.errors import TrtpackError

EVALUATION = "trtpack evaluation text 1"
_TEXTS = Path(__file__).parent / "texts"


def evaluation() -> str:
    """The held-out text that EVALUATION names: about 2,500 tokens."""
    return (_TEXTS / "evaluation.txt").read_text(encoding="utf-8")


def calibration(path: Path | None = None) -> str:
    """The user's text, or the shipped one: about 4,000 tokens. Raises TrtpackError for a file that is no text."""
    path = path or _TEXTS / "calibration.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TrtpackError(f"calibration text {path} is not UTF-8: {error}", "Save it as plain text.") from error
    except OSError as error:
        raise TrtpackError(f"calibration text {path} cannot be read: {error.strerror}") from error
    if not text.strip():
        raise TrtpackError(f"calibration text {path} is empty", "Give text such as the model will read and write.")
    return text


def sequences(text: str, encode: Callable[[str], list[int]], length: int, most: int = 8192) -> list[list[int]]:
    """Cuts a text into sequences of `length` tokens or fewer, at least two, and no more than `most` tokens in all.

    `encode` may put a special token first, the BOS: then every sequence starts with it, as every prompt does.
    Raises TrtpackError for a text of fewer than two tokens.
    """
    # No tokenizer in use makes more than 16 characters of ordinary text into one token: spare it the rest of a corpus.
    tokens = encode(text[: 16 * most])
    start = encode("")[:1]
    if start and tokens[:1] == start:
        tokens = tokens[1:]
    else:
        start = []
    step = length - len(start)
    parts = [start + tokens[at : at + step] for at in range(0, min(len(tokens), most), step)]
    found = [part for part in parts if len(part) > 1]
    if not found:
        raise TrtpackError(f"the calibration text has {len(tokens)} tokens, too few to predict one", "Give more text.")
    return found
