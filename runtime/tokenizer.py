"""Text to token ids and back, and chat messages to a prompt, from the files in engine/tokenizer/."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer

from runtime.errors import EngineError, InputError

Message = Mapping[str, Any]


class Tokenizer:
    """A checkpoint's tokenizer and chat template."""

    def __init__(self, folder: Path, max_model_len: int) -> None:
        """Raises EngineError when a file is missing or cannot be read."""
        try:
            self._fast: FastTokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception
            raise EngineError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
        self._max_model_len = max_model_len
        self._longest_token = max(map(len, self._fast.get_vocab()), default=1)
        settings = _read_json(folder / "tokenizer_config.json")
        self._tokens = {name: _token_text(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token")}
        self._template = _chat_template(folder / "chat_template.jinja")

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids; with `special_tokens`, those the checkpoint puts around a plain prompt (its BOS).

        Raises InputError for a text that cannot be within max_model_len, before the time is spent to split it.
        """
        if len(text) > (most := self._longest_token * self._max_model_len):
            limit = f"max_model_len is {self._max_model_len} tokens, at most {most} characters"
            raise InputError(f"prompt: it has {len(text)} characters; {limit}")
        ids: list[int] = self._fast.encode(text, add_special_tokens=special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int], *, special_tokens: bool = False) -> str:
        """Text, without special tokens unless they are wanted; bytes that form no character become U+FFFD."""
        text: str = self._fast.decode(ids, skip_special_tokens=not special_tokens)
        return text

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that asks for the assistant's next turn. Raises InputError."""
        if self._template is None:
            raise InputError("messages: this model has no chat template; send prompt instead")
        try:
            text = self._template.render(messages=messages, add_generation_prompt=True, **self._tokens)
        except jinja2.TemplateError as error:
            raise InputError(f"messages: the model's chat template refused them: {error}") from error
        return self.encode(text, special_tokens=False)


def same_vocabulary(one: Path, other: Path) -> bool:
    """Whether the tokenizers in two folders give every text piece the same id."""
    first, second = (FastTokenizer.from_file(str(folder / "tokenizer.json")).get_vocab() for folder in (one, other))
    return bool(first == second)


def _chat_template(path: Path) -> jinja2.Template | None:
    """None where the checkpoint had none: compile writes it here, whichever of its places it came from."""
    if not path.is_file():
        return None
    try:
        return _environment().from_string(path.read_text(encoding="utf-8"))
    except jinja2.TemplateError as error:
        raise EngineError(f"the chat template {path} is not valid Jinja: {error}") from error


def _environment() -> ImmutableSandboxedEnvironment:
    """The names and settings that chat templates are written for (transformers' `apply_chat_template`)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _token_text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise EngineError(f"{path} is not valid JSON: {error}") from error
    return content
