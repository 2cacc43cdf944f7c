"""One token to choose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from runtime.sampling.params import SamplingParams


@dataclass(frozen=True)
class Draw:
    """By which parameters, at which position of its sequence.

    `known` gives the tokens before it, `prompt` of them the prompt's; `barred` tokens are out (those that would end
    the answer too early); `guide` takes float32 logits [vocabulary] and bars in place what a grammar does not allow.
    """

    params: SamplingParams
    position: int
    known: Callable[[], Sequence[int]] = tuple
    prompt: int = 0
    barred: frozenset[int] = frozenset()
    guide: Callable[[Tensor], None] | None = None

    @property
    def adjusts(self) -> bool:
        """Whether this row's logits are changed before a token is chosen."""
        return self.params.adjusts or bool(self.barred) or self.guide is not None
