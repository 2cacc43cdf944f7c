"""Building with the Docker engine that answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from packager.config import PackageConfig
from packager.errors import ConfigError, TrtpackError
from packager.image import client as clients
from packager.image.context import write_context
from packager.image.options import Options, platform


def build(
    package: Path,
    config: PackageConfig,
    tags: Sequence[str],
    options: Options | None = None,
    *,
    build_args: Sequence[str] = (),
    secrets: Sequence[str] = (),
    network: str | None = None,
    no_cache: bool = False,
) -> int:
    """Builds the package's image under every tag, showing the engine's own output; returns its size in bytes.

    `build_args` are NAME=VALUE; `secrets`, `network` and `no_cache` as of `docker build`. Raises TrtpackError, and
    write_context's.
    """
    client = clients.find(", or write the context alone with: --context-only OUT")
    options = options or Options()
    options = replace(options, plain=options.plain or not client.mounts)
    if secrets and options.plain:
        raise ConfigError("--secret needs BuildKit, which this engine has not", "See docs.docker.com/build/buildkit.")
    command = ["build", *_each("--tag", tags), "--platform", platform(config, options)]
    command += [*_each("--build-arg", build_args), *_each("--secret", secrets)]
    command += ["--network", network] if network else []
    command += ["--no-cache"] if no_cache else []
    # Inside the package: on one disk the engine's files are linked, not copied.
    with TemporaryDirectory(prefix=".trtpack-", dir=package) as folder:
        context = Path(folder) / "context"
        write_context(package, config, context, options)
        if code := client.run(*command, str(context)):
            raise TrtpackError(f"{client.name} build ended with exit code {code}", "Its output above says why.")
    return int(client.ask("image", "inspect", "--format", "{{.Size}}", tags[0]))


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
