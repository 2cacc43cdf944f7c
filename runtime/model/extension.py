"""What a package may add to the model: activations, norms and families, registered by a Python file of its own.

That file is the user's code, named by `engine.layers` in config.yaml. Nothing in a checkpoint or an engine is run.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Generic, TypeVar

from runtime.errors import EngineError

T = TypeVar("T")
MODULE = "trtpack_layers"


class Registry(Generic[T]):
    """Things of one kind by name: what is shipped, and what a package adds."""

    def __init__(self, kind: str, shipped: Mapping[str, T]) -> None:
        self._kind, self._shipped, self._added = kind, shipped, dict[str, T]()

    def __iter__(self) -> Iterator[str]:
        yield from sorted({*self._shipped, *self._added})

    def find(self, name: str) -> T:
        """What is registered under `name`. Raises EngineError."""
        if name in self._shipped:
            return self._shipped[name]
        if name not in self._added:
            raise EngineError(
                f"{self._kind} {name!r} is not registered: name the file that registers it under engine.layers"
            )
        return self._added[name]

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator; a name registered before is replaced, a shipped one is not: EngineError."""
        if name in self._shipped:
            raise EngineError(f"{self._kind} {name!r} is trtpack's own; register yours under another name")

        def add(thing: T) -> T:
            self._added[name] = thing
            return thing

        return add


def load(path: Path) -> None:
    """Runs a package's file of layers, which registers what it defines. Raises EngineError naming file and line."""
    if not path.is_file():
        raise EngineError(f"engine.layers: {path} does not exist")
    module = ModuleType(MODULE)
    module.__file__ = str(path)
    sys.modules[MODULE] = module  # dataclasses and torch look a class's module up
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        reason = str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
        raise EngineError(f"engine.layers: {path}:{_line(path, error)}: {reason}") from error


def _line(path: Path, error: Exception) -> int:
    """Where in the file it was raised; 1 for text that is not Python at all."""
    lines = [frame.lineno or 1 for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else getattr(error, "lineno", None) or 1
