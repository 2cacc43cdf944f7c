"""One generation, from submission to its last token. Plain Python, no tensor."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic

from runtime.sampling import SamplingParams
from runtime.text import Detokenizer


class FinishReason(StrEnum):
    """Why a request ended; the first two are OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True)
class Delta:
    """What one step added: text that is safe to show (maybe none yet), tokens, and on the last one the reason."""

    text: str
    tokens: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    error: Exception | None = None


@dataclass(eq=False)
class Request:
    """`tokens` are the known ones, prompt and generated; the KV of the first `computed` of them is in `blocks`.

    `deliver` is called on the engine's thread and must not block.
    """

    prompt: tuple[int, ...]
    sampling: SamplingParams
    max_new_tokens: int
    deliver: Callable[[Delta], None]
    detokenizer: Detokenizer
    eos_token_ids: frozenset[int] = frozenset()
    arrival: float = field(default_factory=monotonic)
    tokens: list[int] = field(init=False)
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    first_token: float | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def missing(self) -> int:
        """Known tokens whose KV is still to be computed."""
        return len(self.tokens) - self.computed

    @property
    def max_tokens(self) -> int:
        """The longest this request can become, prompt included."""
        return len(self.prompt) + self.max_new_tokens

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.prompt)

    def append(self, token: int) -> Delta:
        """Takes the next token; says what it adds to the text, and whether it was the last."""
        self.first_token = self.first_token or monotonic()
        self.tokens.append(token)
        if token in self.eos_token_ids:
            return Delta(self.detokenizer.finish(), (token,), FinishReason.STOP)
        text = self.detokenizer.push(token)
        if self.detokenizer.stopped:
            return Delta(text, (token,), FinishReason.STOP)
        if self.generated == self.max_new_tokens:
            text += self.detokenizer.finish()
            return Delta(text, (token,), FinishReason.STOP if self.detokenizer.stopped else FinishReason.LENGTH)
        return Delta(text, (token,))
