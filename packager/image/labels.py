"""What an image says of itself: the annotations that OCI's image specification defines, and the engine's."""

import hashlib
import os
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from packager.config import PackageConfig
from packager.errors import ConfigError
from packager.image.options import Options
from runtime.engine.manifest import Manifest

# github.com/opencontainers/image-spec, annotations.md, "Pre-Defined Annotation Keys".
OCI = "org.opencontainers.image"
EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"


def title(config: PackageConfig) -> str:
    return " ".join((config.model_name or config.slug).split())


def labels(package: Path, config: PackageConfig, engine: Manifest | None, options: Options) -> dict[str, str]:
    """Sorted by name. Nothing in them is of this build alone, so that the same input is the same image.

    Source, revision, version and time are those of the commit that the package is at; a time of SOURCE_DATE_EPOCH
    (reproducible-builds.org, "SOURCE_DATE_EPOCH", in seconds) comes before it. Raises ConfigError for a wrong one.
    """
    found = {f"{OCI}.title": title(config), "trtpack.version": version("trtpack"), **_git(package), **_time()}
    if config.description:
        found[f"{OCI}.description"] = " ".join(config.description.split())
    if accelerator := config.resources.accelerator:
        found["trtpack.gpu"] = accelerator.gpu.name
        found["trtpack.compute-capability"] = accelerator.gpu.compute_capability
    if engine:
        found["trtpack.backend"] = engine.backend.name
        found["trtpack.backend-version"] = engine.backend.version
        found["trtpack.engine"] = f"sha256:{hashlib.sha256(engine.dump().encode()).hexdigest()}"
    return dict(sorted({**found, **options.labels}.items()))


def _time() -> dict[str, str]:
    text = os.environ.get(EPOCH_VARIABLE)
    if text is None:
        return {}
    try:
        created = datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(f"{EPOCH_VARIABLE} is {text!r}, expected seconds since 1970") from error
    return {f"{OCI}.created": created.strftime("%Y-%m-%dT%H:%M:%SZ")}


def _git(package: Path) -> dict[str, str]:
    """Of the repository that holds config.yaml, if one does."""
    if _asked(package, "ls-files", "config.yaml") != "config.yaml":
        return {}
    changed = "-dirty" if _asked(package, "status", "--porcelain", "--untracked-files=no", "--", ".") else ""
    remote = _asked(package, "remote", "get-url", "origin")
    found = {
        "source": _without_credentials(remote),
        "revision": f"{revision}{changed}" if (revision := _asked(package, "rev-parse", "HEAD")) else "",
        "version": _asked(package, "describe", "--tags", "--always") + changed,
        "created": _asked(package, "log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"),
    }
    return {f"{OCI}.{name}": value for name, value in found.items() if value}


def _asked(package: Path, *question: str) -> str:
    """Git's answer, empty where it has none."""
    command = ["git", "-C", str(package), *question]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "TZ": "UTC"})
    except FileNotFoundError:
        return ""
    return "" if done.returncode else done.stdout.strip()


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.scheme.startswith("http") else url
