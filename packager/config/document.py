"""config.yaml as data, and the line that every part of it came from."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong, at a line counted from 1."""

    line: int
    text: str


class Unreadable(Exception):  # noqa: N818 (it carries a problem, it is not one)
    """The text is not one YAML document."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


@dataclass(frozen=True)
class Document:
    """`data` is plain Python, keys as they are written; `problems` are the keys that stand twice in one mapping."""

    root: Node | None
    data: Any
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """The line of the key or item at `path`, or of the nearest part above it that stands in the file."""
        return self._find(path)[0]

    def shown(self, path: Path) -> str:
        """What stands at `path`, short enough for an error."""
        node = self._find(path)[1]
        if isinstance(node, MappingNode):
            return "fields" if node.value else "{}"
        if isinstance(node, SequenceNode):
            return "a list" if node.value else "[]"
        if not isinstance(node, ScalarNode) or node.tag.endswith(":null"):
            return "nothing"
        text = " ".join(node.value.split())
        text = text if len(text) <= 60 else f"{text[:57]}..."
        return repr(text) if node.tag.endswith(":str") else text

    def _find(self, path: Path) -> tuple[int, Node | None]:
        node, line = self.root, 1
        for part in path:
            children = _children(node)
            if str(part) not in children:
                break
            key, node = children[str(part)]
            line = key.start_mark.line + 1
        return line, node


def parse(text: str) -> Document:
    """Reads one YAML document. Raises Unreadable when it is not one."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        problems = [] if root is None else _repeats(root)
        return Document(root, None if root is None else loader.construct_document(root), problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(filter(None, (error.context, error.problem)))
        raise Unreadable(Problem(mark.line + 1 if mark else 1, f"not valid YAML: {reason}")) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(Problem(line, f"not valid YAML: {error.reason}")) from error
    except RecursionError as error:
        raise Unreadable(Problem(1, "nested too deeply")) from error


class _Loader(yaml.SafeLoader):
    """SafeLoader, but a key is the text that is written (`on:` stays "on"), and a bad scalar is an error with line."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        return {_key(key): self.construct_object(value, deep=deep) for key, value in node.value}

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r} is not a valid {kind}", node.start_mark
            ) from error


def _key(node: Node) -> str:
    if not isinstance(node, ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "expected text as a key", node.start_mark)
    return str(node.value)


def _children(node: Node | None) -> dict[str, tuple[Node, Node]]:
    """Key or index to the nodes where it stands and of what it holds; the last one where a key stands twice."""
    if isinstance(node, MappingNode):
        return {str(key.value): (key, value) for key, value in node.value}
    if isinstance(node, SequenceNode):
        return {str(index): (item, item) for index, item in enumerate(node.value)}
    return {}


def _repeats(root: Node) -> list[Problem]:
    """A problem for every key that stands twice in one mapping. Raises Unreadable for an alias in its own anchor."""
    problems: list[Problem] = []
    done: set[int] = set()

    def visit(node: Node, above: frozenset[int]) -> None:
        if id(node) in above:
            raise Unreadable(Problem(node.start_mark.line + 1, "an alias stands inside what it refers to"))
        if id(node) in done or isinstance(node, ScalarNode):
            return
        first: dict[str, int] = {}
        for child in node.value:
            key, value = child if isinstance(node, MappingNode) else (None, child)
            if key is not None and key.tag != _MERGE:
                name, line = _key(key), key.start_mark.line + 1
                if name in first:
                    problems.append(Problem(line, f"{name!r} stands here and on line {first[name]}; keep one"))
                first.setdefault(name, line)
            visit(value, above | {id(node)})
        done.add(id(node))

    visit(root, frozenset())
    return problems
