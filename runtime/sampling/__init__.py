"""Choosing the next token from logits, for many requests at once."""

from runtime.sampling.draw import Draw
from runtime.sampling.logprobs import Logprob, TokenLogprobs
from runtime.sampling.params import LogitsProcessor, SamplingParams
from runtime.sampling.sampler import Choice, sample

__all__ = ["Choice", "Draw", "LogitsProcessor", "Logprob", "SamplingParams", "TokenLogprobs", "sample"]
