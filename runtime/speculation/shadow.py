"""A request as a draft model sees it."""

from copy import copy
from dataclasses import dataclass, field, replace

from runtime.request import Request


@dataclass
class Shadow:
    """`ahead` is `request` in the draft's own world: after the `shared` tokens its last ones are guesses.

    Its `computed` and `blocks` speak of the draft's KV cache. At most `patience` tokens are guessed next time.
    """

    request: Request
    patience: int
    ahead: Request = field(init=False)
    shared: int = 0

    def __post_init__(self) -> None:
        self.ahead = copy(self.request)
        self.ahead.tokens, self.ahead.blocks, self.ahead.drafts, self.ahead.computed = [], [], [], 0
        self.ahead.sampling = replace(self.request.sampling, logprobs=None, prompt_logprobs=None)

    @property
    def guesses(self) -> list[int]:
        """What is proposed."""
        return self.ahead.tokens[self.shared :]

    def rejoin(self, most: int) -> list[int]:
        """Takes the tokens that the request has got since, and returns them; at most `most` are guessed from here.

        Guesses they do not bear out are forgotten, and their KV does not count as computed. A wrong one means one
        guess fewer next time, none wrong means two more (`heuristic` in transformers' assisted generation). What is
        paid for is draft steps: at one fifth of a step of the model each, and 1 guess in 10 right, a token costs 1.6
        steps with four guesses and 1.1 with one; 9 in 10 right, 0.44 with four and 0.63 with one.
        """
        guesses, came = self.guesses, self.request.tokens[self.shared :]
        agreed = _agreement(guesses, came)
        wrong = agreed < min(len(guesses), len(came))
        self.patience = max(1, self.patience - 1) if wrong else min(most, self.patience + 2)
        self.ahead.tokens[self.shared + agreed :] = came[agreed:]
        self.ahead.computed = min(self.ahead.computed, self.shared + agreed, len(self.ahead.tokens) - 1)
        self.shared = len(self.ahead.tokens)
        return came


def _agreement(guesses: list[int], came: list[int]) -> int:
    """How many of the first guesses are right."""
    for index, (guess, token) in enumerate(zip(guesses, came, strict=False)):
        if guess != token:
            return index
    return min(len(guesses), len(came))
