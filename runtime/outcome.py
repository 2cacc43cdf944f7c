"""What a step's logits mean for each of its requests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from runtime.batch import Batch
from runtime.sampling import Choice, TokenLogprobs, logprobs, sample
from runtime.scheduler import Chunk


@dataclass(frozen=True)
class Outcome:
    """The next tokens of a chunk's request: one, and one more for every guess that they confirm; none in mid-prompt."""

    chunk: Chunk
    choices: Sequence[Choice] = ()
    prompt_logprobs: Sequence[TokenLogprobs] = ()


def outcomes(logits: Tensor, batch: Batch) -> list[Outcome]:
    """One for each of `batch.wanted`; logits float32 [N, vocabulary] are those of `batch.logit_rows`."""
    rows: list[int] = []
    draws, told, row = [], dict[int, list[TokenLogprobs]](), 0
    for index, (chunk, count) in enumerate(batch.wanted):
        if chunk.request.wants_prompt_logprobs:
            told[index] = _of_prompt(logits[row : row + count], chunk)
        if chunk.completes:
            rows += range(row + count - chunk.drafts - 1, row + count)
            draws += [chunk.request.draw(drafts) for drafts in range(chunk.drafts + 1)]
        row += count
    choices = iter(sample(logits if len(rows) == len(logits) else logits[rows], draws) if draws else ())
    return [
        Outcome(chunk, _confirmed(chunk, choices), told.get(index, ())) for index, (chunk, _) in enumerate(batch.wanted)
    ]


def _confirmed(chunk: Chunk, choices: Iterator[Choice]) -> list[Choice]:
    """As long as a token is what was guessed, the logits after the guess are the right ones for the next.

    Each token is chosen as if there were no guesses, so its distribution is the model's, as with rejection sampling
    (Leviathan et al., arXiv:2211.17192). A guess that knows nothing of the draw is kept with the probability that the
    model gives it, one drawn by the same random numbers more often (runtime.speculation.draft_model). And as a draw
    hangs on seed and position alone, the answer is the same as without guesses.
    """
    if not chunk.completes:
        return []
    made = [next(choices) for _ in range(chunk.drafts + 1)]
    agreed = 0
    while agreed < chunk.drafts and made[agreed].token == chunk.request.drafts[agreed] and not made[agreed].error:
        agreed += 1
    return made[: agreed + 1]


def _of_prompt(logits: Tensor, chunk: Chunk) -> list[TokenLogprobs]:
    """Of the prompt's tokens that follow this chunk's, without those that were told before a preemption."""
    request = chunk.request
    first = max(chunk.start, len(request.prompt_logprobs))
    targets = request.prompt[first + 1 : chunk.end + 1]
    if not targets:
        return []
    rows = logits[first - chunk.start : first - chunk.start + len(targets)]
    return logprobs.of(rows, targets, [request.sampling.prompt_logprobs or 0] * len(targets))
