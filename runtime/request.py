"""One generation, from submission to its last token. Plain Python, no tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic

from runtime.guide import Guide
from runtime.sampling import Choice, Draw, SamplingParams, TokenLogprobs
from runtime.text import Detokenizer


class FinishReason(StrEnum):
    """Why a request ended; the first two are OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True)
class Delta:
    """What one step added: text that is safe to show (maybe none yet), tokens, and on the last one the reason.

    `stop` is the stop string or token that ended it, None for the model's own end. `logprobs`, where they were asked
    for, has one entry a token; `prompt_logprobs` comes once, before any token, without the first token, which has none.
    """

    text: str
    tokens: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    stop: str | int | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(eq=False)
class Request:
    """`tokens` are the known ones, prompt and generated; the KV of the first `computed` of them is in `blocks`.

    `deliver` is called on the engine's thread and must not block. `eos_token_ids` end the answer unless `ignore_eos`,
    `stop_token_ids` always; before `sampling.min_tokens` neither is drawn, and stop strings pass. Lower `priority`
    first, then earlier `arrival` (monotonic seconds, as `deadline`). Prefixes are shared among equal `salt` and
    `adapter` alone. A prompt that another request has brought already is not `counted`. `drafts` are tokens guessed
    after the known ones, to be checked in the next step.
    """

    prompt: tuple[int, ...]
    sampling: SamplingParams
    max_new_tokens: int
    deliver: Callable[[Delta], None]
    detokenizer: Detokenizer
    eos_token_ids: frozenset[int] = frozenset()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    priority: int = 0
    salt: str = ""
    adapter: str = ""
    guide: Guide | None = None
    counted: bool = True
    arrival: float = field(default_factory=monotonic)
    deadline: float | None = None
    tokens: list[int] = field(init=False)
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    prefix: list[bytes] = field(default_factory=list)
    cached: int | None = None
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    started: float | None = None
    first_token: float | None = None
    last_token: float | None = None

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

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether some are still to be computed, for which a cached prefix is of no use."""
        return self.sampling.prompt_logprobs is not None and len(self.prompt_logprobs) < len(self.prompt) - 1

    def draw(self, drafts: int = 0) -> Draw:
        """The choice of the token after the known ones and the first `drafts` guesses."""
        early = self.generated + drafts < self.sampling.min_tokens
        return Draw(
            self.sampling,
            position=len(self.tokens) + drafts,
            known=lambda: self.tokens + self.drafts[:drafts] if drafts else self.tokens,
            prompt=len(self.prompt),
            barred=self._ends if early else frozenset(),
            guide=self.guide.bar if self.guide else None,
        )

    def advance(self, choices: Sequence[Choice], prompt_logprobs: Sequence[TokenLogprobs] = ()) -> Delta:
        """Takes what one step gave: tokens, one a choice, up to the first that ends the answer."""
        self.prompt_logprobs += prompt_logprobs
        prompt = tuple(self.prompt_logprobs) if prompt_logprobs and not self.wants_prompt_logprobs else ()
        text, taken, told = "", list[int](), list[TokenLogprobs]()
        reason, stop, error = None, None, None
        for choice in choices:
            if choice.error:
                reason, error = FinishReason.ERROR, choice.error
                break
            taken.append(choice.token)
            told += [choice.logprobs] if choice.logprobs else []
            piece, reason, stop = self._append(choice.token)
            text += piece
            if reason:
                break
        if taken:
            self.last_token = monotonic()
            self.first_token = self.first_token or self.last_token
        return Delta(text, tuple(taken), reason, error, stop, tuple(told), prompt)

    @property
    def _ends(self) -> frozenset[int]:
        return self.stop_token_ids if self.ignore_eos else self.stop_token_ids | self.eos_token_ids

    def _append(self, token: int) -> tuple[str, FinishReason | None, str | int | None]:
        self.tokens.append(token)
        if self.guide:
            self.guide.accept(token)
        if token in self._ends:
            return self.detokenizer.finish(), FinishReason.STOP, token if token in self.stop_token_ids else None
        text = self.detokenizer.push(token, watch=self.generated > self.sampling.min_tokens)
        if self.generated == self.max_new_tokens and not self.detokenizer.stopped:
            text += self.detokenizer.finish()
            if not self.detokenizer.stopped:
                return text, FinishReason.LENGTH, None
        if self.detokenizer.stopped:
            return text, FinishReason.STOP, self.detokenizer.stopped
        if self.guide and self.guide.ended:
            return text + self.detokenizer.finish(), FinishReason.STOP, None
        return text, None, None
