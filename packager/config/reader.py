"""From a package folder to its PackageConfig, or to every problem of its config.yaml at once."""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from packager.config.document import Problem, Unreadable, parse
from packager.config.package import PackageConfig
from packager.config.problems import dotted, problem, problems
from packager.config.translation import findings
from packager.config.unserved import unserved
from packager.errors import ConfigError

FILE_NAME = "config.yaml"
_RESERVED = ("HOSTNAME", "PORT")  # Kubernetes and Knative set them in every container


def load(directory: Path) -> PackageConfig:
    """The config of the package in `directory`; a line on stderr for each field that nothing here acts on.

    Raises ConfigError with one line for each problem, in the order of the file.
    """
    path = directory / FILE_NAME
    text = _read(path)
    try:
        document = parse(text)
    except Unreadable as error:
        raise _refusal(path, [error.problem]) from error
    found = list(document.problems)
    config = None
    try:
        config = PackageConfig.model_validate({} if document.data is None else document.data)
    except ValidationError as error:
        found += problems(error, document)
    said = [] if config is None else list(findings(config, _engine_given(document.data)))
    found += [problem(one.path, one.text, document) for one in said if one.refused]
    if config is None or found:
        raise _refusal(path, found)
    warnings = [*((one.path, one.text) for one in said), *_newer_python(config, document.data)]
    for name, reason in [*unserved(config), *_reserved(config), *warnings]:
        print(f"warning: {path}:{document.line(name)}: {dotted(name)}: {reason}", file=sys.stderr)
    return config


def _engine_given(data: Any) -> Collection[str]:
    """The fields that `engine:` itself names."""
    return (data or {}).get("engine") or ()


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{path} does not exist", f"Create a package with: trtpack init {path.parent}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _refusal(path, [Problem(line, "not UTF-8 text")]) from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _refusal(path: Path, found: list[Problem]) -> ConfigError:
    return ConfigError("\n".join(f"{path}:{problem.line}: {problem.text}" for problem in sorted(set(found))))


def _reserved(config: PackageConfig) -> list[tuple[tuple[str, ...], str]]:
    names = [name for name in _RESERVED if name in config.environment_variables]
    return [(("environment_variables", name), "the platform sets it; this value is lost") for name in names]


def _newer_python(config: PackageConfig, data: Any) -> list[tuple[tuple[str, ...], str]]:
    written = (data or {}).get("python_version", config.python_version)
    if written == config.python_version:
        return []
    reason = f"the runtime needs 3.11, and Truss does not use it with trt_llm either; {config.python_version} is taken"
    return [(("python_version",), reason)]
