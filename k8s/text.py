"""Text of a template, in which no value can be read as structure."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from re import compile as pattern
from textwrap import indent
from typing import Any

import jinja2
import yaml

_FOLDER = Path(__file__).parents[1] / "templates" / "k8s"
_PLAIN = pattern(r"[A-Za-z/]([A-Za-z0-9._/@:-]*[A-Za-z0-9])?")
# Words that some YAML 1.1 reader, Go's or Python's, takes for a boolean or null.
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


class Block(str):
    """YAML of more than one line, indented already."""


def scalar(value: object) -> str:
    """One value as a YAML scalar: plain where every reader takes it for a string, quoted otherwise."""
    if isinstance(value, Block | int):
        return str(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS:
        return text
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return quoted.rstrip("\n")


def nested(value: object, width: int) -> Block:
    """A mapping or a list as lines beneath a key, `width` spaces in."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=float("inf"))
    return Block(indent(text, " " * width).rstrip("\n"))


def literal(text: str, width: int) -> Block:
    """A text in its own lines, where YAML can hold it so."""
    if not text.strip() or not text.replace("\n", "").isprintable():
        return Block(scalar(text))
    dumped = yaml.safe_dump(text, default_style="|", allow_unicode=True, width=float("inf"))
    # After a text that ends in empty lines PyYAML ends the document as well.
    first, *lines = dumped.removesuffix("...\n").removesuffix("\n").split("\n")
    return Block("\n".join([first, *(" " * width + line if line else line for line in lines)]))


class Templates:
    """The manifests' templates, where `write` makes one YAML scalar of every expression."""

    def __init__(self, write: Callable[[object], str] = scalar) -> None:
        self._environment = _environment(write)

    def text(self, name: str, context: Mapping[str, Any]) -> str:
        return self._environment.get_template(f"{name}.yaml.j2").render(context)


@cache
def _environment(write: Callable[[object], str]) -> jinja2.Environment:
    """One for each way of writing: it keeps the templates that it has compiled."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        undefined=jinja2.StrictUndefined,
        finalize=write,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"nested": nested, "literal": literal}
    return environment
