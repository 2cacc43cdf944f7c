"""From token ids to text that can be shown at once: whole characters only, and no part of a stop string."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
# Far more tokens than one character has. Beyond it what waits to become one is no text, and is decoded once only.
_PENDING = 32
# Tokens of the prompt that the text of the answer's first one may depend on; as many as vLLM takes.
_BEFORE = 5
# A character of UTF-8 that has begun is whole after three more bytes, and a token has at least one.
_REST = 3


class Detokenizer:
    """Text of one request, token by token: the joined pieces equal the `continuation` as a whole, cut at a stop string.

    Of several stop strings the one that is complete first counts, of equals the first in the list. A piece is the
    difference between two decodings of a short window of tokens, since a token's text may depend on its neighbour (a
    leading space, a character in several bytes). Method: Hugging Face's text-generation-inference, `decode_token` with
    prefix and read offsets.
    """

    def __init__(
        self, decode: Decode, stop: Sequence[str] = (), *, include_stop: bool = False, prompt: Sequence[int] = ()
    ) -> None:
        """`decode` turns ids into text; `include_stop` leaves the stop string in it. `stopped` is the one found."""
        self._decode = decode
        self._stop = [text for text in stop if text]
        self._include_stop = include_stop
        self._neighbours, self._shown = _before(decode, prompt)
        self._pending: list[int] = []
        self._held = ""
        self.stopped: str | None = None

    def push(self, token: int, *, watch: bool = True) -> str:
        """Takes one token; returns the text that is now safe to show, maybe none.

        Without `watch` its text passes whatever it holds, and no stop string begins in it.
        """
        if self.stopped:
            return ""
        self._pending.append(token)
        text = self._decode(self._neighbours + self._pending)
        piece = text[len(self._shown) :]
        if not piece and not self._decode([token, token]):  # a hidden special token: it has no text anywhere
            self._pending.pop()
            return ""
        settled = len(self._pending)
        if not piece or piece.endswith("\ufffd"):  # not, or not yet, a whole character
            settled, piece = self._given_up(text)
        if not settled:
            return ""
        self._neighbours, self._pending = self._pending[:settled], self._pending[settled:]
        self._shown = self._decode(self._neighbours)
        return self._release(piece) if watch else piece

    def finish(self) -> str:
        """What is still held back at the end of the sequence."""
        if self.stopped:
            return ""
        rest = self._decode(self._neighbours + self._pending)[len(self._shown) :]
        text = self._release(rest)
        return text + self._held

    def _given_up(self, text: str) -> tuple[int, str]:
        """How many of too many pending tokens can no longer change, and their part of `text`."""
        if len(self._pending) >= _PENDING:
            for count in range(len(self._pending) - _REST, 0, -1):
                part = self._decode(self._neighbours + self._pending[:count])
                if text.startswith(part):
                    return count, part[len(self._shown) :]
        return 0, ""

    def _release(self, piece: str) -> str:
        text = self._held + piece
        found = [(position + len(stop), stop) for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            end, self.stopped = min(found, key=lambda pair: pair[0])
            self._held = ""
            return text[: end if self._include_stop else end - len(self.stopped)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def continuation(decode: Decode, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """The text of an answer's `tokens` as it follows the prompt: a leading space that only begins a text is kept."""
    neighbours, shown = _before(decode, prompt)
    return decode([*neighbours, *tokens])[len(shown) :]


def _before(decode: Decode, prompt: Sequence[int]) -> tuple[list[int], str]:
    neighbours = list(prompt[-_BEFORE:])
    shown = decode(neighbours)
    return ([], "") if shown.endswith("\ufffd") else (neighbours, shown)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
