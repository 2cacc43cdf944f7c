"""A package folder as the server sees it: config.yaml, and the user's Model class."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Self

import yaml

from runtime.model import extension
from runtime.registry.source import SOURCE_VARIABLE
from runtime.server.secrets import Secrets

# Truss serves a `trt_llm:` package so, whatever its config.yaml says (truss/base/constants.py).
TRT_LLM_CONCURRENCY = 512


class PackageError(ValueError):
    """The package cannot be served as it stands; the text says what is wrong and where."""


class LocalData:
    """Truss's `lazy_data_resolver`, for an image that holds all its data: there is nothing to wait for."""

    def block_until_download_complete(self) -> None:
        return


@dataclass(frozen=True)
class Package:
    """`directory` is absolute; `config` is config.yaml as written, without defaults filled in.

    `streaming_read_timeout`: the longest silence between two chunks of a stream, in seconds. `model`: the file of the
    Model class where it is not the package's own.
    """

    directory: Path
    config: Mapping[str, object]
    predict_concurrency: int
    streaming_read_timeout: int
    model: Path | None = None

    @classmethod
    def open(cls, directory: Path, model: Path | None = None) -> Self:
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
            _count(path, config, "predict_concurrency", TRT_LLM_CONCURRENCY if config.get("trt_llm") else 1),
            _count(path, config, "streaming_read_timeout", 60),
            model.resolve() if model else None,
        )

    def enter(self) -> None:
        """Makes the folder the working directory, and its code importable, as in the image.

        What engine.source names is told to the engine, unless the environment names another one.
        """
        os.chdir(self.directory)
        if source := self._engine.get("source"):
            os.environ.setdefault(SOURCE_VARIABLE, str(source))
        sys.path.insert(0, str(self.directory))
        external = self.config.get("external_package_dirs") or []
        folders = [
            self._text("bundled_packages_dir", "packages"),
            *map(str, external if isinstance(external, list) else []),
        ]
        sys.path.extend(str(path) for folder in folders if (path := self.directory / folder).is_dir())

    def create_model(self) -> object:
        """Imports the Model class and makes its instance, after the layers that the package adds to the engine.

        Raises PackageError, EngineError for the layers, or whatever the user's code raises.
        """
        if layers := self._engine.get("layers"):
            extension.load(self.directory / str(layers))
        module = self._module()
        name = self._text("model_class_name", "Model")
        kind = getattr(module, name, None)
        if not inspect.isclass(kind):
            raise PackageError(f"{self.model or self._model_file()} defines no class {name}")
        return kind(**self._arguments(kind))

    @property
    def _engine(self) -> dict[str, object]:
        engine = self.config.get("engine")
        return engine if isinstance(engine, dict) else {}

    def _module(self) -> ModuleType:
        if self.model:
            return _imported(self.model)
        file = self._model_file()
        if not (self.directory / file).is_file():
            raise PackageError(f"{file} is missing in {self.directory}")
        return importlib.import_module(".".join(file.with_suffix("").parts))

    def _model_file(self) -> Path:
        return Path(self._text("model_module_dir", "model"), self._text("model_class_filename", "model.py"))

    def _arguments(self, kind: Callable[..., object]) -> dict[str, object]:
        offered = {
            "config": dict(self.config),
            "data_dir": self.directory / self._text("data_dir", "data"),
            "secrets": Secrets(self.config.get("secrets")),
            "environment": None,
            "lazy_data_resolver": LocalData(),
        }
        parameters = inspect.signature(kind).parameters
        if "trt_llm" in parameters and parameters["trt_llm"].default is inspect.Parameter.empty:
            raise PackageError(
                "Model takes trt_llm, the engine that Baseten hands to it; make one with runtime.llm.LLM, "
                "or take model.py away to be served without"
            )
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return offered
        return {name: value for name, value in offered.items() if name in parameters}

    def _text(self, field: str, default: str) -> str:
        return str(self.config.get(field) or default)


def _imported(file: Path) -> ModuleType:
    """A module that is in no folder of sys.path."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise PackageError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _count(path: Path, config: Mapping[str, object], field: str, default: int) -> int:
    runtime = config.get("runtime") or {}
    value = runtime.get(field, default) if isinstance(runtime, dict) else None
    if type(value) is not int or value < 1:
        raise PackageError(f"{path}: runtime.{field} must be a whole number of at least 1")
    return value
