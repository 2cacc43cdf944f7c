"""What the image asks of a package index."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packager.config import PackageConfig
from packager.errors import ConfigError
from runtime.engine.manifest import Manifest

_EXTRA = re.compile(r"""\s*;\s*extra\s*==\s*['"]serve['"]\s*""")


def requirements(config: PackageConfig, engine: Manifest | None) -> str:
    """This distribution's own for serving, then the package's `requirements`.

    torch and TensorRT are the very releases the engine was compiled with, whatever PyPI has by now: TensorRT's plans
    run on no other.
    """
    ours = [line for line in _serving() if not re.match(r"torch\b", line)]
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
    listed = requires("trtpack") or []
    return [_EXTRA.sub("", line) for line in listed if _EXTRA.search(line) or "extra ==" not in line]
