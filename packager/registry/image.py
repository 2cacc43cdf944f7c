"""Pushing an image with the docker or podman command, which knows its own credentials and shows each layer."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from packager.errors import TrtpackError
from packager.image.client import Client


def push(client: Client, name: str, reference: str) -> str:
    """Pushes the image `name` as `reference`, a name that it loses again here if it was not there before.

    Returns REGISTRY/NAME@DIGEST. Raises TrtpackError.
    """
    had, identity = client.identity(reference), client.identity(name)
    if had != identity:
        client.ask("tag", name, reference)
    try:
        return _push(client, reference)
    finally:
        # Its last name would take the image along.
        if had is None and len(_listed(client, reference, "RepoTags")) > 1:
            client.ask("rmi", reference)


def _push(client: Client, reference: str) -> str:
    with TemporaryDirectory() as folder:
        file = Path(folder, "digest")
        podman = ["--digestfile", str(file)] if client.is_podman else []
        if code := client.run("push", *podman, reference):
            raise TrtpackError(
                f"{client.name} push ended with exit code {code}",
                f"Its output above says why; to log in: {client.name} login {reference.partition('/')[0]}",
            )
        return f"{_untagged(reference)}@{file.read_text()}" if podman else _pushed(client, reference)


def _pushed(client: Client, reference: str) -> str:
    """docker keeps the digest that a registry gave, with the name it was pushed to."""
    repository = _untagged(reference).removeprefix("docker.io/").removeprefix("library/")
    own = [name for name in _listed(client, reference, "RepoDigests") if name.partition("@")[0] == repository]
    return own[-1] if own else reference


def _listed(client: Client, image: str, field: str) -> list[str]:
    names: list[str] = json.loads(client.ask("image", "inspect", "--format", f"{{{{json .{field}}}}}", image))
    return names


def _untagged(reference: str) -> str:
    repository, slash, name = reference.rpartition("/")
    return f"{repository}{slash}{name.partition(':')[0]}"
