"""`trtpack build`: the package's container image, or the context to build it from."""

from pathlib import Path

import click


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--tag", metavar="REF", help="The image's name; without it NAME:latest, after model_name.")
@click.option("--context-only", "out", metavar="OUT", type=click.Path(path_type=Path), help="Write OUT, build nothing.")
@click.option("--print-dockerfile", is_flag=True, help="Print the Dockerfile, write nothing.")
@click.option("--base-image", metavar="REF", help="Instead of base_image in config.yaml, or python:X.Y-slim-bookworm.")
@click.option("--build-arg", "build_args", metavar="NAME=VALUE", multiple=True, help="As of docker build; repeatable.")
@click.option("--network", metavar="MODE", help="As of docker build: the network that installs use.")
def command(
    directory: Path,
    tag: str | None,
    out: Path | None,
    print_dockerfile: bool,
    base_image: str | None,
    build_args: tuple[str, ...],
    network: str | None,
) -> None:
    """Build the container image of the package in DIR.

    The image holds the server, the engine, the model code and config.yaml, runs as user 1000 and needs nothing
    writable but /tmp. --context-only writes the same as a folder with its Dockerfile, for a builder elsewhere.

    \b
    Example:
      trtpack build smollm --tag europe-docker.pkg.dev/me/models/smollm:1
      trtpack build smollm --context-only context && docker build context
    """
    from packager import image
    from packager.config import load

    config = load(directory)
    if print_dockerfile:
        from packager.image.context import package_folders
        from packager.image.dockerfile import dockerfile

        click.echo(dockerfile(config, package_folders(directory, config), base_image=base_image), nl=False)
    elif out:
        image.write_context(directory, config, out, base_image=base_image)
        platform = "".join(f"{word} " for word in image.platform(config))
        click.echo(f"wrote {out}\n\nNext:\n  docker build {platform}--tag {tag or f'{config.slug}:latest'} {out}")
    else:
        reference = tag or f"{config.slug}:latest"
        image.build(directory, config, reference, base_image=base_image, build_args=build_args, network=network)
        click.echo(f"built {reference}\n\nNext:\n  docker run --rm --publish 8080:8080 {reference}")
