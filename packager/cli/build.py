"""`trtpack build`: the package's container image, or the context to build it from."""

import shlex
from pathlib import Path

import click

from packager.errors import ConfigError


def _labels(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if wrong := next((name for name, sign, _ in pairs if not (name and sign)), None):
        raise click.BadParameter(f"{wrong!r} is not NAME=VALUE")
    return {name: value for name, _, value in pairs}


_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--tag", "tags", metavar="REF", multiple=True, help="Its name; without, NAME:latest. Repeatable.")
@click.option("--context-only", "out", metavar="OUT", type=click.Path(path_type=Path), help="Write OUT, build nothing.")
@click.option("--print-dockerfile", is_flag=True, help="Print the Dockerfile, write nothing.")
@click.option("--plain", is_flag=True, help="A Dockerfile without RUN --mount, for Kaniko and other old builders.")
@click.option("--compiler", is_flag=True, help="The image that compiles the engine, for trtpack compile --on-cluster.")
@click.option("--base-image", metavar="REF", help="Instead of base_image in config.yaml, or python:X.Y-slim-bookworm.")
@click.option("--platform", metavar="OS/ARCH", help="Instead of that of the GPU's machines, or of this one.")
@click.option("--upgrade", is_flag=True, help="Resolve requirements.lock anew, to the newest releases.")
@click.option("--wheels", metavar="FOLDER", type=_FOLDER, help="Install from its wheels alone, with no index.")
@click.option("--ca-cert", metavar="FILE", type=_FILE, help="A certificate (PEM) that the build's installs trust.")
@click.option("--trust-ca", is_flag=True, help="The server trusts --ca-cert too.")
@click.option("--label", "labels", metavar="NAME=VALUE", multiple=True, callback=_labels, help="Repeatable.")
@click.option("--build-arg", "build_args", metavar="NAME=VALUE", multiple=True, help="As of docker build; repeatable.")
@click.option("--secret", "secrets", metavar="id=ID,src=FILE", multiple=True, help="pip (a pip.conf) or netrc.")
@click.option("--network", metavar="MODE", help="As of docker build: the network that installs use.")
@click.option("--no-cache", is_flag=True, help="As of docker build: run every step again.")
def command(
    directory: Path,
    tags: tuple[str, ...],
    out: Path | None,
    print_dockerfile: bool,
    plain: bool,
    compiler: bool,
    base_image: str | None,
    platform: str | None,
    upgrade: bool,
    wheels: Path | None,
    ca_cert: Path | None,
    trust_ca: bool,
    labels: dict[str, str],
    build_args: tuple[str, ...],
    secrets: tuple[str, ...],
    network: str | None,
    no_cache: bool,
) -> None:
    """Build the container image of the package in DIR.

    The image holds the server, the engine, the model code and config.yaml, runs as user 1000 and needs nothing
    writable but /tmp. What it installs is locked, with hashes, in DIR/requirements.lock. --context-only writes the
    same as a folder with its Dockerfile, for a builder elsewhere. --compiler builds the one that compiles the engine
    on a cluster, locked in DIR/compiler.lock: trtpack besides the server, and no engine.

    \b
    Example:
      trtpack build smollm --tag europe-docker.pkg.dev/me/models/smollm:1
      trtpack build smollm --context-only context && docker build context
    """
    from packager import image
    from packager.config import load

    if trust_ca and not ca_cert:
        raise ConfigError("--trust-ca needs --ca-cert FILE")
    config = load(directory)
    options = image.Options(base_image, platform, plain, wheels, ca_cert, trust_ca, labels, upgrade, compiler)
    tags = tags or (f"{config.slug}{'-compiler' * compiler}:latest",)
    if print_dockerfile:
        click.echo(image.printed(directory, config, options), nl=False)
    elif out:
        image.write_context(directory, config, out, options)
        for_platform = image.platform(config, options)
        click.echo(f"wrote {out}\n\nNext:\n  docker build --platform {for_platform} --tag {tags[0]} {out}")
    else:
        size = image.build(
            directory,
            config,
            tags,
            options,
            build_args=build_args,
            secrets=secrets,
            network=network,
            no_cache=no_cache,
        )
        click.echo(f"built {', '.join(tags)}: {size / 1e6:,.0f} MB with its base image")
        place = tags[0] if "/" in tags[0] else f"REGISTRY/{tags[0]}"
        folder, tag = shlex.quote(str(directory)), shlex.quote(tags[0])
        push = f"trtpack push {folder} {shlex.quote(place)}"
        click.echo(f"\nNext:\n  {push} --image {tag}" if compiler else f"\nNext:\n  trtpack run {tag}\n  {push}")
