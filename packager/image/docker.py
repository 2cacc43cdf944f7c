"""Building with the Docker engine that answers."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from packager.config import PackageConfig
from packager.errors import TrtpackError
from packager.image.context import write_context


def build(
    package: Path,
    config: PackageConfig,
    tag: str,
    *,
    base_image: str | None = None,
    build_args: Sequence[str] = (),
    network: str | None = None,
) -> None:
    """Builds the package's image as `tag`, showing the engine's own output. Raises TrtpackError, and write_context's.

    `build_args` are NAME=VALUE, `network` as of `docker build --network`.
    """
    docker = _docker()
    # Inside the package: on one disk the engine's files are linked, not copied.
    with TemporaryDirectory(prefix=".trtpack-", dir=package) as folder:
        context = Path(folder) / "context"
        write_context(package, config, context, base_image=base_image)
        command = [docker, "build", "--tag", tag, *platform(config), *_each("--build-arg", build_args)]
        if network:
            command += ["--network", network]
        code = subprocess.run([*command, str(context)], env=_environment(), check=False).returncode
    if code:
        raise TrtpackError(f"docker build ended with exit code {code}", "Its output above says why.")


def platform(config: PackageConfig) -> list[str]:
    """The option that builds for the GPU's machines, whatever the machine that builds."""
    accelerator = config.resources.accelerator
    return ["--platform", f"linux/{accelerator.gpu.arch}"] if accelerator else []


def _docker() -> str:
    """The path of a docker client whose engine answers."""
    docker = shutil.which("docker")
    if docker is None:
        raise TrtpackError(
            "no docker command is installed", "Install Docker, or write the context alone with: --context-only OUT"
        )
    asked = [docker, "version", "--format", "{{.Server.Version}}"]
    if subprocess.run(asked, env=_environment(), capture_output=True, check=False).returncode:
        where = os.environ.get("DOCKER_HOST", "its default socket")
        raise TrtpackError(
            f"no Docker engine answers at {where}",
            "Start one (Docker Desktop, or: sudo systemctl start docker), or write the context alone with: "
            "--context-only OUT",
        )
    return docker


def _environment() -> dict[str, str]:
    """`COPY --from` and `ADD --chmod` need BuildKit, which engines before 23 use only when told."""
    return {**os.environ, "DOCKER_BUILDKIT": "1"}


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
