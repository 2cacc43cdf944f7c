"""Guessing that what was said before is said again."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.request import Request


@dataclass(frozen=True)
class PromptLookup:
    """What followed the last time these tokens came up (Saxena's prompt lookup decoding, 2023).

    The longest of the last `longest` down to `shortest` tokens that stand earlier in prompt or answer count; of several
    places the latest, for `tokens` tokens.
    """

    tokens: int = 4
    longest: int = 4
    shortest: int = 2
    window: int = 4096

    def check(self, engine: Path) -> None:
        """It has what it needs in the request itself."""

    def propose(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.drafts = self._continuation(request.tokens[-self.window :])

    def forget(self, request: Request) -> None:
        """Nothing is kept."""

    def _continuation(self, known: list[int]) -> list[int]:
        packed = array("I", known).tobytes()
        for size in range(min(self.longest, len(known) - 1), self.shortest - 1, -1):
            place = _last(packed, size)
            if place is not None:
                return known[place + size : place + size + self.tokens]
        return []


_WIDTH = array("I").itemsize


def _last(packed: bytes, size: int) -> int | None:
    """Where the last `size` tokens stood before, in tokens from the start.

    In bytes: the interpreter's own substring search is far faster than a loop over a list.
    """
    needle, end = packed[-size * _WIDTH :], len(packed) - _WIDTH
    while (place := packed.rfind(needle, 0, end)) >= 0:
        if place % _WIDTH == 0:
            return place // _WIDTH
        end = place + len(needle) - 1
    return None
