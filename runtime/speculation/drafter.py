"""What guesses the next tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from runtime.request import Request


class Drafter(Protocol):
    """Proposes tokens for requests whose known tokens are all computed but the last.

    A guess, good or bad, changes no answer: see runtime.outcome. So a drafter may give up on any request, at any time.
    """

    def check(self, engine: Path) -> None:
        """Called once, before the rest, with the engine folder to guess for. Raises EngineError if it cannot."""

    def propose(self, requests: Sequence[Request]) -> None:
        """Sets each request's `drafts`, to none where there is no good guess."""

    def forget(self, request: Request) -> None:
        """The request has ended; one that was never proposed for is ignored."""
