"""From token ids to text that can be shown at once: whole characters only, and no part of a stop string."""

from collections.abc import Sequence
from typing import Protocol


class Decodes(Protocol):
    """Token ids → text, special tokens left out."""

    def decode(self, ids: Sequence[int], /) -> str: ...


class Detokenizer:
    """Text of one request, token by token: the joined pieces equal the decoded whole, cut at the first stop string.

    A piece is the difference between two decodings of a short window of tokens, since a token's text may
    depend on its neighbour (a leading space, a character in several bytes). Method: Hugging Face's
    text-generation-inference, `decode_token` with prefix and read offsets.
    """

    def __init__(self, tokenizer: Decodes, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._neighbours: list[int] = []
        self._shown = ""
        self._pending: list[int] = []
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Takes one token; returns the text that is now safe to show, maybe none."""
        if self.stopped:
            return ""
        self._pending.append(token)
        text = self._tokenizer.decode(self._neighbours + self._pending)
        piece = text[len(self._shown) :]
        if not piece or piece.endswith("\ufffd"):  # not, or not yet, a whole character
            return ""
        self._neighbours, self._pending = self._pending, []
        self._shown = self._tokenizer.decode(self._neighbours)
        return self._release(piece)

    def finish(self) -> str:
        """What is still held back at the end of the sequence."""
        if self.stopped:
            return ""
        rest = self._tokenizer.decode(self._neighbours + self._pending)[len(self._shown) :]
        text = self._release(rest)
        return text + self._held

    def _release(self, piece: str) -> str:
        text = self._held + piece
        found = [position for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
