"""`trtpack sbom`: what an image or an engine is made of."""

from pathlib import Path

import click

from packager import swap
from packager.errors import ConfigError, TrtpackError


@click.command()
@click.argument("subject", metavar="IMAGE|ENGINE|PACKAGE")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write FILE instead of standard output.")
@click.option("--base", metavar="REF", help="The image it was built on, where its labels do not say it.")
@click.option("--unaccounted", is_flag=True, help="List the image's files that no component accounts for; 1 if any.")
def command(subject: str, out: Path | None, base: str | None, unaccounted: bool) -> None:
    """Write the CycloneDX SBOM of an image, of an engine's folder, or of a package's engine.

    An image is read where Docker or podman has it, and never run: its Debian packages and Python distributions, the
    runtime, the engine, and every file of the model package with its sha256. The same content gives the same bytes.

    \b
    Example:
      trtpack sbom smollm/engine --out engine.cdx.json
      trtpack sbom smollm:latest --out image.cdx.json
      trtpack sbom smollm:latest --unaccounted
    """
    from packager.attestation import bom, engine, image, local

    folder = Path(subject)
    if folder.is_dir():
        if unaccounted or base:
            raise ConfigError(f"--unaccounted and --base are for an image, and {folder} is a folder")
        _write(bom.engine(engine.in_folder(folder / "engine" if (folder / "config.yaml").is_file() else folder)), out)
        return
    described = local.described(subject)
    found = image.evidence(described, local.read(subject), local.base_of(described, base))
    if not unaccounted:
        _write(found.sbom, out)
        return
    for path in found.inventory.unaccounted:
        click.echo(f"/{path}")
    if count := len(found.inventory.unaccounted):
        raise TrtpackError(f"{count} files of {subject} are in no component of its SBOM")


def _write(content: bytes, out: Path | None) -> None:
    if out is None:
        click.echo(content, nl=False)
        return
    swap.write(out, content)
    click.echo(f"wrote {out}", err=True)
