"""Answers held to a JSON schema, a regular expression or a Lark grammar, token by token, by llguidance."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from runtime.errors import InputError

Kind = Literal["json_schema", "regex", "grammar"]
# Between JSON's marks one space may stand: where any whitespace may, small models write nothing else till their end.
_COMPACT: Any = {"whitespace_pattern": "[ ]?"}


@dataclass(frozen=True)
class Grammar:
    """What an answer must match: a JSON schema as JSON text, a regular expression, or a grammar in Lark's notation."""

    kind: Kind
    text: str

    @classmethod
    def of_schema(cls, schema: Mapping[str, Any]) -> "Grammar":
        """The JSON schema given as an object."""
        return cls("json_schema", json.dumps(schema))


class Guide:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def bar(self, logits: Tensor) -> None:
        """Sets the logits [vocabulary] of every token that cannot come next to -inf."""
        allowed = torch.from_numpy(np.frombuffer(self._matcher.compute_logit_bias(), np.uint8).copy())
        barred = torch.ones(logits.shape, dtype=torch.bool)  # of a padded vocabulary, the padding
        barred[: len(allowed)] = allowed[: len(logits)] == 0
        logits.masked_fill_(barred.to(logits.device), -torch.inf)

    def accept(self, token: int) -> None:
        """Takes the next token. Raises ValueError for one that was barred."""
        if not self._matcher.consume_token(token):
            raise ValueError(f"token {token} is outside the grammar: {self._matcher.get_error()}")


class Guides:
    """Guides for one tokenizer; a grammar that comes again is compiled once."""

    def __init__(self, tokenizer: Path, eos_token_ids: Sequence[int]) -> None:
        """`tokenizer` is a tokenizer.json."""
        from llguidance import LLTokenizer

        self._tokenizer: Any = None
        self._unreadable: Exception | None = None
        try:
            self._tokenizer = LLTokenizer(tokenizer.read_text(encoding="utf-8"), eos_token=list(eos_token_ids) or None)
        except ValueError as error:  # not every kind of tokenizer: the model answers what is not guided all the same
            self._unreadable = error
        self._compiled = lru_cache(maxsize=64)(self._compile)

    def guide(self, grammar: Grammar) -> Guide:
        """At the grammar's start.

        Raises InputError for one that is not valid, in the library's words, and for a tokenizer that it cannot read.
        """
        if self._unreadable:
            raise InputError(f"{grammar.kind}: answers of this model cannot be guided: {self._unreadable}")
        return Guide(self._compiled(grammar).deep_copy())

    def _compile(self, grammar: Grammar) -> Any:
        from llguidance import LLMatcher

        makers: Mapping[Kind, Callable[[str], str]] = {
            "json_schema": partial(LLMatcher.grammar_from_json_schema, defaults=_COMPACT),
            "regex": LLMatcher.grammar_from_regex,
            "grammar": LLMatcher.grammar_from_lark,
        }
        try:
            matcher = LLMatcher(self._tokenizer, makers[grammar.kind](grammar.text), log_level=0)
        except ValueError as error:
            raise InputError(f"{grammar.kind}: {error}") from error
        if matcher.is_error():
            raise InputError(f"{grammar.kind}: {' '.join(matcher.get_error().split())}")
        return matcher
