"""What pydantic found wrong, said in the words of config.yaml."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from packager.config.document import Document, Path, Problem
from packager.config.package import PackageConfig
from packager.config.section import Section

_LISTABLE = 16  # fields one line can name
_OFTEN_MEANT = ("engine", "resources", "runtime", "build", "base_image", "kubernetes")
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "finite_number": "a finite number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "dict_type": "fields",
    "model_type": "fields",
    "model_attributes_type": "fields",
    "string_too_short": "text",
}


def problems(error: ValidationError, document: Document) -> list[Problem]:
    """One problem for each of pydantic's, with the line of what it is about."""
    return [_problem(details, document) for details in error.errors()]


def _problem(details: ErrorDetails, document: Document) -> Problem:
    path: Path = tuple(part for part in details["loc"] if part != "[key]")
    kind, line = details["type"], document.line(path)
    if kind == "extra_forbidden":
        return Problem(line, _unknown(path))
    if kind == "missing":
        return Problem(line, f"{dotted(path)} is missing")
    if path != details["loc"]:
        return Problem(line, f"{dotted(path)}: {_expected(details)}, found {path[-1]!r} as a name")
    return problem(path, _expected(details), document)


def problem(path: Path, message: str, document: Document) -> Problem:
    """`message` about the value at `path`, which is shown where the message says what was expected."""
    found = f", found {document.shown(path)}" if message.startswith("expected") else ""
    return Problem(document.line(path), f"{dotted(path)}: {message}{found}")


def _expected(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"expected {context['expected']}"
    if kind == "greater_than_equal":
        return f"expected at least {context['ge']}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}"
    return details["msg"].replace("Input should be", "expected")


def dotted(path: Path) -> str:
    """`runtime.transport.kind`, `requirements[2]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the file"


def _unknown(path: Path) -> str:
    *parents, key = path
    where = dotted(tuple(parents)) if parents else ""
    text = f"unknown field {key!r}" + (f" under {where}" if where else "")
    known = _section(PackageConfig, tuple(parents)).model_fields
    name = str(key).lower().replace("-", "_")
    for place, fields in _places().items():
        if name in fields and place != where:
            return f"{text}; it belongs {f'under {place}' if place else 'at the top level'}"
    if near := get_close_matches(name, known, n=1):
        return f"{text}; did you mean {near[0]!r}?"
    return f"{text}; known: {', '.join(known)}" if len(known) <= _LISTABLE else text


@cache
def _places() -> Mapping[str, Iterable[str]]:
    """The top level, as "", and the sections a lost field may come from, each with its fields."""
    return {"": PackageConfig.model_fields} | {
        name: _section(PackageConfig, (name,)).model_fields for name in _OFTEN_MEANT
    }


def _section(root: type[Section], path: Path) -> type[Section]:
    """The section at `path`: the last one that the annotations of its fields lead to."""
    for part in path:
        if field := root.model_fields.get(str(part)):
            root = next(_sections(field.annotation), root)
    return root


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
