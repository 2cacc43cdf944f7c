"""What the image asks of a package index."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packager.compile.target import automatic
from packager.config import EngineConfig, PackageConfig
from packager.errors import ConfigError
from runtime.engine.manifest import Manifest
from runtime.registry.source import HUB, OCI

# What pulls an engine at start, by the scheme of engine.source.
_PULLS = {OCI: "httpx", HUB: "huggingface-hub"}
_EXTRA = re.compile(r"""\s*;\s*extra\s*==\s*['"]serve['"]\s*""")


def requirements(config: PackageConfig, engine: Manifest | None) -> str:
    """This distribution's own for serving, then the package's `requirements`.

    torch and TensorRT are the very releases the engine was compiled with, whatever PyPI has by now: TensorRT's plans
    run on no other. Of an engine that is pulled at start they are not known, and the config's requirements pin them.
    """
    ours = [line for line in _serving() if not re.match(r"torch\b", line)]
    if config.engine and config.engine.source:
        ours += _pulling(config, config.engine, config.engine.source)
    # === takes no 2.13.0+cpu, whatever folder of wheels is at hand (PEP 440, "Arbitrary equality").
    same = "===" if config.resources.accelerator else "=="
    theirs = [f"torch{same}{engine.backend.torch}"] if engine else []
    if engine and engine.backend.name != "torch":
        theirs.append(f"{engine.backend.name}=={engine.backend.version}")
    return "".join(f"{line}\n" for line in [*sorted(ours), *theirs, *config.requirements])


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
    return [_EXTRA.sub("", line) for line in _listed() if _EXTRA.search(line) or "extra ==" not in line]


def _pulling(config: PackageConfig, engine: EngineConfig, source: str) -> list[str]:
    """What an image without an engine needs to fetch one, and to run it."""
    names = [next(name for scheme, name in _PULLS.items() if source.startswith(scheme)), "torch"]
    accelerator = config.resources.accelerator
    backend = automatic(accelerator.gpu) if accelerator and engine.backend == "auto" else engine.backend
    if accelerator and backend.startswith("tensorrt"):
        names.append(backend)
    return [_bounded(name) for name in names]


def _bounded(name: str) -> str:
    """The distribution with the bounds of our own metadata, from whichever extra names it."""
    lines = (line.partition(";")[0].strip() for line in _listed())
    return next((line for line in lines if re.match(rf"{name}(?![\w-])", line)), name)


def _listed() -> list[str]:
    return requires("trtpack") or []
