"""Text of a template, in which no value can be read as structure."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from re import compile as pattern
from typing import Any

import jinja2
import yaml

_FOLDER = Path(__file__).parents[1] / "templates" / "k8s"
_PLAIN = pattern(r"[A-Za-z/]([A-Za-z0-9._/@:-]*[A-Za-z0-9])?")
# Words that some YAML 1.1 reader, Go's or Python's, takes for a boolean or null.
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def scalar(value: object) -> str:
    """One value as a YAML scalar: plain where every reader takes it for a string, quoted otherwise."""
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS:
        return text
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return quoted.rstrip("\n")


class Templates:
    """The manifests' templates, where `write` makes one YAML scalar of every expression."""

    def __init__(self, write: Callable[[object], str] = scalar) -> None:
        self._environment = _environment(write)

    def text(self, name: str, context: Mapping[str, Any]) -> str:
        return self._environment.get_template(f"{name}.yaml.j2").render(context)


@cache
def _environment(write: Callable[[object], str]) -> jinja2.Environment:
    """One for each way of writing: it keeps the templates that it has compiled."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        undefined=jinja2.StrictUndefined,
        finalize=write,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
