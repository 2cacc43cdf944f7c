"""Beam search, over single steps of the batch: every beam is a prefix that the cache holds already."""

from contextlib import aclosing
from dataclasses import dataclass, replace
from time import monotonic

from runtime.answers import Answer, Completion, Run, together
from runtime.prediction import Prediction
from runtime.request import FinishReason
from runtime.sampling import TokenLogprobs
from runtime.text import Decode, continuation


@dataclass(frozen=True)
class _Beam:
    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    logprobs: tuple[TokenLogprobs, ...] = ()

    def score(self, length_penalty: float) -> float:
        """Log-probability over length to that power, as transformers."""
        return self.logprob / float(max(len(self.tokens), 1) ** length_penalty)


async def search(run: Run, prediction: Prediction, ends: frozenset[int], decode: Decode) -> Completion:
    """The `n` best of `beam_width` beams; `ends` are the tokens that end one. Raises what `run` raises.

    As transformers with early_stopping=True: it ends once `beam_width` beams have ended, or at max_new_tokens. A step
    of a beam is a request of its own in the metrics, but for the prompt's tokens.
    """
    width, sampling, since = prediction.beam_width, prediction.sampling, monotonic()
    # Of these many candidates `width` go on, even where every end follows every beam.
    candidates = max(2, 1 + len(ends)) * width
    step = replace(
        prediction,
        max_new_tokens=1,
        sampling=replace(sampling, temperature=0.0, logprobs=candidates + len(ends), min_tokens=0),
        ignore_eos=True,
        stop_token_ids=frozenset(),
    )
    beams, ended = [_Beam()], list[_Beam]()
    for length in range(1, prediction.max_new_tokens + 1):
        left = replace(step, counted=length == 1).later(since)
        grown = await together(_grown(run, left, beam, sampling.logprobs or 0) for beam in beams)
        early = length <= sampling.min_tokens
        likely = [beam for several in grown for beam in several if not early or beam.tokens[-1] not in ends]
        likely = sorted(likely, key=lambda beam: -beam.logprob)[:candidates]
        last = length == prediction.max_new_tokens
        # An end counts only where it is among the `width` likeliest; the rest stands in for those.
        ended += [beam for beam in likely[:width] if last or beam.tokens[-1] in ends]
        beams = [beam for beam in likely if beam.tokens[-1] not in ends][:width]
        if len(ended) >= width:
            break
    ended.sort(key=lambda beam: -beam.score(prediction.length_penalty))
    answers = (_answer(beam, prediction, ends, decode) for beam in ended[: prediction.n])
    return Completion(tuple(answers), len(prediction.prompt))


async def _grown(run: Run, step: Prediction, beam: _Beam, shown: int) -> list[_Beam]:
    """Every continuation by one of the likeliest tokens; it tells of `shown` others."""
    async with aclosing(run(replace(step, prompt=step.prompt + beam.tokens))) as deltas:
        told = [token async for delta in deltas for token in delta.logprobs]
    top = told[0].top
    return [
        _Beam(
            (*beam.tokens, near.token), beam.logprob + near.logprob, (*beam.logprobs, TokenLogprobs(near, top[:shown]))
        )
        for near in top
    ]


def _answer(beam: _Beam, prediction: Prediction, ends: frozenset[int], decode: Decode) -> Answer:
    last = beam.tokens[-1]
    logprobs = beam.logprobs if prediction.sampling.logprobs is not None else ()
    ended = last in ends
    text = continuation(decode, prediction.prompt, beam.tokens[:-1] if ended else beam.tokens)
    stop = last if last in prediction.stop_token_ids else None
    return Answer(text, beam.tokens, FinishReason.STOP if ended else FinishReason.LENGTH, stop, logprobs)
