"""What a request asks of its next tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

# Known tokens, prompt included, and float32 logits [vocabulary] → logits of that shape, changed in place or anew.
LogitsProcessor = Callable[[Sequence[int], Tensor], Tensor]


@dataclass(frozen=True)
class SamplingParams:
    """Names and meanings are vLLM's and OpenAI's. What is left at its default costs nothing.

    `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off. `repetition_penalty` counts prompt and
    answer, the other two the answer alone. `bad_words` are token sequences whose last token is barred after the others.
    `logprobs` and `prompt_logprobs` None give none, 0 the token's own, k also the k likeliest's.

    The same `seed` gives the same tokens whatever else is in the batch: a draw depends on the logits, the seed and the
    token's position alone.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    processors: tuple[LogitsProcessor, ...] = ()

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken; of equals, the first."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)
        return penalties or bool(self.logit_bias or self.bad_words or self.allowed_token_ids or self.processors)
