"""`trtpack push`: the package's image, or its engine, to where clusters and people can pull it."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from packager.errors import ConfigError, TrtpackError
from runtime.registry.source import HUB, OCI

if TYPE_CHECKING:
    from packager.image.client import Client
    from packager.registry.engine import Attach, Pushed


@click.command()
@click.argument("words", metavar="[DIR] REF", nargs=-1, required=True)
@click.option("--engine", is_flag=True, help="Push the engine, not the image; DIR may be an engine's folder, too.")
@click.option(
    "--image", metavar="NAME", help="The local image to push; without it REF, if it was built so, or NAME:latest."
)
@click.option("--replace", is_flag=True, help="With --engine: instead of what the tag has now.")
@click.option("--attest/--no-attest", default=True, help="Whether to attach SBOM and provenance; on by default.")
@click.option("--sign", "key", metavar="KEY.pem", type=click.Path(path_type=Path), help="Sign where it came from.")
@click.option("--base", metavar="REF", help="What the image was built on, for its SBOM, where no label says it.")
@click.option("--revision", metavar="BRANCH", help="With hf://: the branch to commit to, instead of main.")
@click.option("--public", is_flag=True, help="With hf://: a repository made for this is one that everybody sees.")
def command(
    words: tuple[str, ...],
    engine: bool,
    image: str | None,
    replace: bool,
    attest: bool,
    key: Path | None,
    base: str | None,
    revision: str | None,
    public: bool,
) -> None:
    """Push the image of the package in DIR to REF, or with --engine its engine.

    REF is a name as of docker push; an engine goes to oci://REGISTRY/NAME:TAG or hf://ORG/NAME. A tag holds engines
    of one model for several GPUs: pushing one keeps the others, and what they have in common is stored once. The tag
    is written last, and a push that stopped goes on where it was. An SBOM and a statement of provenance are attached
    to what is in an OCI registry; --sign signs that, and trtpack verify checks it.

    \b
    Example:
      trtpack push smollm europe-docker.pkg.dev/me/models/smollm:1
      trtpack push --engine smollm oci://europe-docker.pkg.dev/me/models/smollm-engine:1
      trtpack push --engine smollm hf://me/smollm-engine
    """
    if len(words) > 2:
        raise click.UsageError(f"expected at most a folder and a reference, got {' '.join(words)}")
    directory, reference = Path(words[0] if len(words) == 2 else "."), words[-1]
    if key:
        _check(key, attest)  # before anything is sent
    if engine:
        told = push_engine(
            directory, reference, replace=replace, attest=attest, key=key, revision=revision, public=public
        )[1]
        click.echo(told)
    else:
        _push_image(directory, reference, image, attest, key, base)


def _push_image(
    directory: Path, reference: str, name: str | None, attest: bool, key: Path | None, base: str | None
) -> None:
    from packager.image import client as clients
    from packager.registry.image import push

    if "://" in reference:
        raise ConfigError(
            f"{reference} is no name of an image", f"To push the engine: trtpack push --engine {reference}"
        )
    client = clients.find()
    name = _chosen(client, directory, reference, name)
    pushed = push(client, name, reference)
    click.echo(f"pushed {pushed}")
    if attest:
        from packager.attestation.local import attach_image

        attach_image(pushed, name, key, base=base)
    click.echo(f"\nNext:\n  trtpack deploy {directory} --image {pushed}")


def _chosen(client: "Client", directory: Path, reference: str, name: str | None) -> str:
    """The image of that name; else what trtpack build made of the package, which may have been called `reference`."""
    from packager.config import load

    names = [name] if name else [reference]
    if not name and (directory / "config.yaml").is_file():
        names.append(f"{load(directory).slug}:latest")
    found = {identity: each for each in names if (identity := client.identity(each))}
    if not found:
        raise TrtpackError(f"there is no image {names[-1]} here", f"Build it with: trtpack build {directory}")
    if len(found) > 1:
        raise ConfigError(f"{' and '.join(names)} are two images, and either may be meant", "Say with: --image NAME")
    return next(iter(found.values()))


def push_engine(
    directory: Path,
    reference: str,
    *,
    replace: bool = False,
    attest: bool = True,
    key: Path | None = None,
    revision: str | None = None,
    public: bool = False,
) -> tuple[str, str]:
    """Returns its reference, by digest or commit, and what to tell of it."""
    from runtime.engine.manifest import FILE_NAME

    check_place(reference)
    folder = directory if (directory / FILE_NAME).is_file() else directory / "engine"
    if reference.startswith(HUB):
        if key:
            raise ConfigError("--sign signs what is attached in an OCI registry; nothing is attached on the Hub")
        hub = import_module("packager.registry.hub")
        at = str(hub.push(folder, reference, revision=revision, private=not public))
        return at, _told(at)
    if reference.startswith(OCI):
        from packager.registry.engine import push
        from runtime.registry.reference import Reference

        pushed = push(folder, Reference.parse(reference), replace=replace, attach=_attaching(key) if attest else None)
        return str(pushed.reference), _summary(pushed)
    raise AssertionError("check_place lets nothing else pass")


def check_place(reference: str) -> None:
    """Raises ConfigError or RegistryError for what push_engine would refuse, before anything is compiled."""
    from runtime.registry.reference import Reference

    if reference.startswith(OCI) and Reference.parse(reference).digest:
        raise ConfigError(f"{reference} is no tag to push to", "Write it as oci://REGISTRY/NAME:TAG")
    if not reference.startswith((OCI, HUB)):
        raise ConfigError(
            f"{reference} is no place for an engine", "Write it as oci://REGISTRY/NAME:TAG or hf://ORG/NAME"
        )


def _check(key: Path, attest: bool) -> None:
    from packager.attestation import signature

    if not attest:
        raise ConfigError("--sign signs what --no-attest leaves out", "Leave one of them away.")
    signature.signer(key)


def _attaching(key: Path | None) -> "Attach":
    from packager.attestation.attached import attach_engine

    return lambda registry, subject: attach_engine(registry, subject, key)


def _summary(pushed: "Pushed") -> str:
    gpus = ", ".join(target.gpu for _, engine in pushed.engines for target in engine.targets) or "any GPU"
    sent = f"{pushed.sent / 1e6:,.1f} of {pushed.size / 1e6:,.1f} MB sent"
    return f"pushed the engine for {gpus}, {sent}\n{_told(str(pushed.reference))}"


def _told(reference: str) -> str:
    return f"{reference}\n\nNext:\n  trtpack pull {reference}\n  or in config.yaml: engine: {{source: {reference}}}"
