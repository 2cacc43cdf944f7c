"""`trtpack verify`: whether what is in a registry is what it says to be."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from packager.cli.gpu import accelerator
from packager.config import Accelerator
from packager.errors import ConfigError, TrtpackError

_SIGNS = {True: click.style("✓", fg="green"), False: click.style("✗", fg="red"), None: "-"}


@click.command()
@click.argument("subject", metavar="REF|ENGINE")
@click.option("--key", metavar="PUB.pem", type=click.Path(path_type=Path), help="The public key that must have signed.")
@click.option("--gpu", callback=accelerator, metavar="NAME", help="Check the engine for that GPU alone.")
@click.option("--full", is_flag=True, help="Pull every blob and hash it; compare an image's files with its SBOM.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(subject: str, key: Path | None, gpu: Accelerator | None, full: bool, as_json: bool) -> None:
    """Check an engine or an image in a registry, or an engine's folder.

    Each manifest has its digest and every blob its size; the SBOM names the files that are there; the statement of
    provenance is of this digest, and signed by the key. Without --key nobody vouches for any of it. What fails ends
    the command with 1.

    \b
    Example:
      trtpack verify oci://europe-docker.pkg.dev/me/models/smollm:1 --key release.pub.pem
      trtpack verify oci://europe-docker.pkg.dev/me/models/smollm:1 --gpu L4 --full
    """
    from packager.attestation import verify
    from runtime.registry.reference import Reference

    folder = Path(subject)
    if folder.is_dir():
        if key or gpu or full:
            raise ConfigError(f"--key, --gpu and --full are for what is in a registry, and {folder} is a folder")
        found = [verify.in_folder(folder / "engine" if (folder / "config.yaml").is_file() else folder)]
    else:
        found = verify.in_registry(Reference.parse(subject), key=key, gpu=gpu.gpu.name if gpu else None, full=full)
    passed = all(one.passed for one in found)
    if as_json:
        click.echo(json.dumps({"passed": passed, "subjects": [{**asdict(one), "passed": one.passed} for one in found]}))
    else:
        for one in found:
            click.echo(one.title)
            for check in one.checks:
                click.echo(f"  {_SIGNS[check.passed]} {check.name + ':':<12} {check.text}")
    if not passed:
        raise TrtpackError(f"{subject} is not what it says to be", "See the lines that begin with ✗.")
