"""What one side gave for prompts sent at once, and when."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cpu.smollm2 import Prompt


@dataclass(frozen=True)
class Answers:
    """In seconds from the sending: `first`, when each answer had begun; `last`, when all were whole.

    `late` counts the tokens that came after `first`. `tokens` is what was answered, where a side tells.
    """

    prompt_tokens: int
    new_tokens: int
    first: float
    last: float
    late: int
    tokens: tuple[Prompt, ...] = ()

    @classmethod
    def of(
        cls, prompts: Sequence[Prompt], arrivals: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]] = ()
    ) -> "Answers":
        """`arrivals`: for each answer, the second at which each of its tokens came."""
        first = max(answer[0] for answer in arrivals)
        return cls(
            prompt_tokens=sum(map(len, prompts)),
            new_tokens=sum(map(len, arrivals)),
            first=first,
            last=max(answer[-1] for answer in arrivals),
            late=sum(arrival > first for answer in arrivals for arrival in answer),
            tokens=tuple(tuple(answer) for answer in tokens),
        )


def decode(answers: Answers) -> float:
    """Tokens generated a second, from when every answer had begun."""
    return answers.late / (answers.last - answers.first)


def prefill(answers: Answers) -> float:
    """Prompt tokens read a second, until every answer had begun."""
    return answers.prompt_tokens / answers.first


def throughput(answers: Answers) -> float:
    """Tokens generated a second, prompts included in the time."""
    return answers.new_tokens / answers.last
