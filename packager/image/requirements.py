"""What the image asks of a package index."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packager.compile.target import automatic
from packager.config import EngineConfig, PackageConfig
from packager.errors import ConfigError
from runtime.engine.manifest import Manifest
from runtime.registry.source import HUB, OCI

# What pulls an engine at start, by the scheme of engine.source.
_PULLS = {OCI: "httpx", HUB: "huggingface-hub"}
_EXTRA = re.compile(r"""\s*;\s*(.*\band\s+)?extra\s*==\s*['"](?P<name>\w+)['"]\s*""")


def requirements(config: PackageConfig, engine: Manifest | None) -> str:
    """This distribution's own for serving, then the package's `requirements`.

    torch and TensorRT are the very releases the engine was compiled with, whatever PyPI has by now: TensorRT's plans
    run on no other. Of an engine that is pulled at start they are not known: those that compile here are taken.
    """
    ours = [line for line in _serving() if not re.match(r"torch\b", line)]
    if config.engine and config.engine.source:
        ours += _pulling(config, config.engine, config.engine.source)
    theirs = [f"torch{_same(config)}{engine.backend.torch}"] if engine else []
    if engine and engine.backend.name != "torch":
        theirs.append(f"{engine.backend.name}=={engine.backend.version}")
    return "".join(f"{line}\n" for line in [*sorted(ours), *theirs, *config.requirements])


def compiling(config: PackageConfig) -> str:
    """The same for the image that compiles the engine: what packages, too, and of the backends the package's own.

    torch and TensorRT are the releases installed here, or where none is, as of TensorRT for a GPU that is elsewhere,
    the newest; serving follows them.
    """
    packaging = [line for line in _listed_for("package") if not re.match(r"(torch|tensorrt-rtx)\b", line)]
    serving = [line for line in _serving() if not re.match(r"torch\b", line)]
    libraries = _libraries(config, config.engine) if config.engine else []
    return "".join(f"{line}\n" for line in [*sorted({*serving, *packaging}), *libraries, *config.requirements])


def user_requirements(package: Path, name: str) -> str:
    """The file that config.yaml names as requirements_file, as pip and uv read it. Raises ConfigError."""
    path = package / name
    if not path.is_file():
        raise ConfigError(f"requirements_file: {path} does not exist")
    if path.name == "uv.lock":
        raise ConfigError(
            f"requirements_file: {name} is uv's own format",
            "Write it for pip with: uv export --format requirements-txt --output-file requirements.txt",
        )
    text = path.read_text(encoding="utf-8")
    if path.name != "pyproject.toml":
        return text
    try:
        dependencies = tomllib.loads(text).get("project", {}).get("dependencies", [])
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"requirements_file: {path} is not TOML: {error}") from error
    return "".join(f"{line}\n" for line in dependencies)


def _serving() -> list[str]:
    """Base dependencies and those of the `serve` extra, from the metadata of the installed distribution."""
    return [*(line for line in _listed() if "extra ==" not in line), *_listed_for("serve")]


def _listed_for(extra: str) -> list[str]:
    return [_EXTRA.sub("", line) for line in _listed() if (found := _EXTRA.search(line)) and found["name"] == extra]


def _pulling(config: PackageConfig, engine: EngineConfig, source: str) -> list[str]:
    """What an image without an engine needs to fetch one, and to run it."""
    client = next(name for scheme, name in _PULLS.items() if source.startswith(scheme))
    return [_bounded(client), *_libraries(config, engine)]


def _libraries(config: PackageConfig, engine: EngineConfig) -> list[str]:
    """torch, and the TensorRT of the config's GPU, while no engine says which releases."""
    accelerator = config.resources.accelerator
    backend = automatic(accelerator.gpu) if accelerator and engine.backend == "auto" else engine.backend
    return [_installed("torch", _same(config)), *([_installed(backend)] if backend.startswith("tensorrt") else [])]


def _same(config: PackageConfig) -> str:
    """=== takes no 2.13.0+cpu, whatever folder of wheels is at hand (PEP 440, "Arbitrary equality")."""
    return "===" if config.resources.accelerator else "=="


def _bounded(name: str) -> str:
    """The distribution with the bounds of our own metadata, from whichever extra names it."""
    lines = (line.partition(";")[0].strip() for line in _listed())
    return next((line for line in lines if re.match(rf"{name}(?![\w-])", line)), name)


def _installed(name: str, same: str = "==") -> str:
    """The distribution in the release that is installed here; in any, where none is."""
    try:
        return f"{name}{same}{version(name).partition('+')[0]}"
    except PackageNotFoundError:
        return name


def _listed() -> list[str]:
    return requires("trtpack") or []
