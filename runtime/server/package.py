"""A package folder as the server sees it: config.yaml, and the user's Model class."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from runtime.server.secrets import Secrets


class PackageError(ValueError):
    """The package cannot be served as it stands; the text says what is wrong and where."""


class LocalData:
    """Truss's `lazy_data_resolver`, for an image that holds all its data: there is nothing to wait for."""

    def block_until_download_complete(self) -> None:
        return


@dataclass(frozen=True)
class Package:
    """`directory` is absolute; `config` is config.yaml as written, without defaults filled in.

    `streaming_read_timeout`: the longest silence between two chunks of a stream, in seconds.
    """

    directory: Path
    config: Mapping[str, object]
    predict_concurrency: int
    streaming_read_timeout: int

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Reads config.yaml; raises PackageError."""
        path = directory / "config.yaml"
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise PackageError(f"cannot read {path}: {exc.strerror}") from exc
        except (yaml.YAMLError, UnicodeDecodeError) as exc:
            raise PackageError(f"{path} is not YAML: {' '.join(str(exc).split())}") from exc
        if not isinstance(config, dict):
            raise PackageError(f"{path} must be a mapping of fields")
        return cls(
            directory.resolve(),
            config,
            _count(path, config, "predict_concurrency", 1),
            _count(path, config, "streaming_read_timeout", 60),
        )

    def enter(self) -> None:
        """Makes the folder the working directory, and its code importable, as in the image."""
        os.chdir(self.directory)
        sys.path.insert(0, str(self.directory))
        external = self.config.get("external_package_dirs") or []
        folders = [
            self._text("bundled_packages_dir", "packages"),
            *map(str, external if isinstance(external, list) else []),
        ]
        sys.path.extend(str(path) for folder in folders if (path := self.directory / folder).is_dir())

    def create_model(self) -> object:
        """Imports the Model class and makes its instance; raises PackageError, or whatever the user's code raises."""
        folder, file = Path(self._text("model_module_dir", "model")), self._text("model_class_filename", "model.py")
        if not (self.directory / folder / file).is_file():
            raise PackageError(f"{folder / file} is missing in {self.directory}")
        module = importlib.import_module(".".join([*folder.parts, Path(file).stem]))
        name = self._text("model_class_name", "Model")
        kind = getattr(module, name, None)
        if not inspect.isclass(kind):
            raise PackageError(f"{folder / file} defines no class {name}")
        return kind(**self._arguments(kind))

    def _arguments(self, kind: Callable[..., object]) -> dict[str, object]:
        offered = {
            "config": dict(self.config),
            "data_dir": self.directory / self._text("data_dir", "data"),
            "secrets": Secrets(self.config.get("secrets")),
            "environment": None,
            "lazy_data_resolver": LocalData(),
        }
        parameters = inspect.signature(kind).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return offered
        return {name: value for name, value in offered.items() if name in parameters}

    def _text(self, field: str, default: str) -> str:
        return str(self.config.get(field) or default)


def _count(path: Path, config: Mapping[str, object], field: str, default: int) -> int:
    runtime = config.get("runtime") or {}
    value = runtime.get(field, default) if isinstance(runtime, dict) else None
    if type(value) is not int or value < 1:
        raise PackageError(f"{path}: runtime.{field} must be a whole number of at least 1")
    return value
