"""A request that has been checked: ready to run, any number of times."""

import random
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from runtime.engine.manifest import Manifest
from runtime.errors import InputError
from runtime.guide import Grammar
from runtime.inputs import PredictInput
from runtime.sampling import SamplingParams
from runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prediction:
    """Token ids, and how to continue them; fields as in runtime.inputs.PredictInput.

    `n` answers of the best `best_of` are wanted, or of a beam of `beam_width`. `timeout` is in seconds from submission;
    `counted` says whether the prompt's tokens are, in the metrics.
    """

    prompt: tuple[int, ...]
    sampling: SamplingParams
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    n: int = 1
    best_of: int = 1
    beam_width: int = 0
    length_penalty: float = 1.0
    grammar: Grammar | None = None
    adapter: str = ""
    priority: int = 0
    timeout: float | None = None
    cache_salt: str = ""
    streaming: bool = False
    streaming_interval: int = 1
    counted: bool = True

    def sibling(self, index: int) -> "Prediction":
        """The same with another seed: the `index`th of several answers."""
        sampling = replace(self.sampling, seed=self.sampling.seed + index)
        return replace(self, sampling=sampling, counted=self.counted and index == 0)

    def later(self, since: float) -> "Prediction":
        """The same with what is left now of its timeout, where that began at `since` (monotonic seconds)."""
        if self.timeout is None:
            return self
        return replace(self, timeout=max(self.timeout - (monotonic() - since), 1e-6))  # 0 would be none


def checked(given: PredictInput, tokenizer: Tokenizer, manifest: Manifest) -> Prediction:
    """Encodes and completes what a client sent, with the checkpoint's defaults. Raises InputError."""
    prompt = _prompt(given, tokenizer)
    room = _room(len(prompt), given.max_new_tokens, manifest)
    if given.min_tokens > room:
        raise InputError(f"min_tokens: {given.min_tokens} is more than the {room} of max_new_tokens")
    _check_ids(given, manifest.model.config.vocab_size)
    return Prediction(
        prompt=prompt,
        sampling=_sampling(given, tokenizer, manifest),
        max_new_tokens=room,
        stop=tuple(given.stop),
        stop_token_ids=frozenset(given.stop_token_ids),
        include_stop=given.include_stop,
        ignore_eos=given.ignore_eos,
        skip_special_tokens=given.skip_special_tokens,
        n=given.n,
        best_of=given.best_of or given.n,
        beam_width=given.beam_width or 0,
        length_penalty=given.length_penalty,
        grammar=_grammar(given),
        adapter=given.adapter or "",
        priority=given.priority,
        timeout=given.timeout,
        cache_salt=given.cache_salt,
        streaming=given.streaming,
        streaming_interval=given.streaming_interval,
    )


def _prompt(given: PredictInput, tokenizer: Tokenizer) -> tuple[int, ...]:
    if given.prompt is not None:
        prompt = tokenizer.encode(given.prompt)
    else:
        prompt = tokenizer.chat([message.model_dump() for message in given.messages or []])
    if not prompt:
        raise InputError("prompt: it is empty; send at least one token")
    return tuple(prompt)


def _sampling(given: PredictInput, tokenizer: Tokenizer, manifest: Manifest) -> SamplingParams:
    default = manifest.generation

    def chosen(value: Any, otherwise: Any) -> Any:
        return otherwise if value is None else value

    return SamplingParams(
        temperature=chosen(given.temperature, default.temperature),
        top_k=max(chosen(given.top_k, default.top_k), 0),
        top_p=chosen(given.top_p, default.top_p),
        min_p=given.min_p,
        seed=chosen(given.seed, random.getrandbits(64)),
        repetition_penalty=given.repetition_penalty,
        presence_penalty=given.presence_penalty,
        frequency_penalty=given.frequency_penalty,
        logit_bias=dict(given.logit_bias),
        bad_words=_bad_words(given.bad_words, tokenizer),
        allowed_token_ids=tuple(given.allowed_token_ids),
        min_tokens=given.min_tokens,
        logprobs=given.logprobs,
        prompt_logprobs=given.prompt_logprobs,
    )


def _bad_words(words: list[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Each at the start of a text, and after a space, which are other tokens."""
    spellings = (spelling for word in words for spelling in (word, f" {word}"))
    sequences = (tuple(tokenizer.encode(text, special_tokens=False)) for text in spellings)
    return tuple(dict.fromkeys(sequence for sequence in sequences if sequence))


def _grammar(given: PredictInput) -> Grammar | None:
    if given.json_schema is not None:
        return Grammar.of_schema(given.json_schema)
    if given.regex is not None:
        return Grammar("regex", given.regex)
    return None if given.grammar is None else Grammar("grammar", given.grammar)


def _check_ids(given: PredictInput, vocabulary: int) -> None:
    for name in ("logit_bias", "allowed_token_ids", "stop_token_ids"):
        if (largest := max(getattr(given, name), default=0)) >= vocabulary:
            raise InputError(f"{name}: {largest} is no token; the vocabulary has {vocabulary}")


def _room(prompt: int, wanted: int | None, manifest: Manifest) -> int:
    limit = manifest.limits.max_model_len
    if prompt >= limit:
        raise InputError(f"prompt: it has {prompt} tokens; max_model_len is {limit}, one of them for the answer")
    if wanted is None:
        return min(manifest.generation.max_new_tokens, limit - prompt)
    if prompt + wanted > limit:
        raise InputError(
            f"max_new_tokens: {prompt} prompt tokens and {wanted} new ones are more than max_model_len {limit}; "
            f"ask for at most {limit - prompt}"
        )
    return wanted
