"""Pushing an image with the Docker or podman command, which knows its own credentials and shows each layer."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from packager.errors import TrtpackError


@dataclass(frozen=True)
class Image:
    """`client` is the path of docker or podman."""

    client: str
    name: str

    @property
    def exists(self) -> bool:
        """Whether the engine has it."""
        return self._run("image", "inspect", self.name).returncode == 0

    def push(self, reference: str) -> str:
        """Pushes it as `reference`; returns REGISTRY/NAME@DIGEST. Raises TrtpackError."""
        if reference != self.name:
            self._check(self._run("tag", self.name, reference), f"{self.name} cannot be called {reference}")
        with TemporaryDirectory() as folder:
            file = Path(folder, "digest")
            podman = ["--digestfile", str(file)] if Path(self.client).name == "podman" else []
            # Its progress goes to stderr, as ours does, and is a terminal's where that is one.
            code = subprocess.run([self.client, "push", *podman, reference], stdout=2, check=False).returncode
            if code:
                client, registry = Path(self.client).name, reference.partition("/")[0]
                raise TrtpackError(
                    f"{client} push ended with exit code {code}",
                    f"Its output above says why; to log in: {client} login {registry}",
                )
            return f"{_untagged(reference)}@{file.read_text()}" if podman else self._pushed(reference)

    def _pushed(self, reference: str) -> str:
        """docker keeps the digest that a registry gave, with the name it was pushed to."""
        done = self._run("image", "inspect", "--format", "{{json .RepoDigests}}", reference)
        self._check(done, f"{reference} is gone")
        repository = _untagged(reference).removeprefix("docker.io/").removeprefix("library/")
        own = [name for name in json.loads(done.stdout) if name.partition("@")[0] == repository]
        return str(own[-1]) if own else reference

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.client, *arguments], capture_output=True, text=True, check=False)

    def _check(self, done: subprocess.CompletedProcess[str], message: str) -> None:
        if done.returncode:
            raise TrtpackError(f"{message}: {done.stderr.strip()}")


def local(name: str) -> Image:
    """An image of the engine that answers, which may not have it. Raises TrtpackError where none answers."""
    client = shutil.which("docker") or shutil.which("podman")
    if client is None:
        raise TrtpackError("no docker or podman command is installed", "Install one of them.")
    done = subprocess.run([client, "version"], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise TrtpackError(f"no engine answers {Path(client).name}", said[-1] if said else None)
    return Image(client, name)


def _untagged(reference: str) -> str:
    repository, slash, name = reference.rpartition("/")
    return f"{repository}{slash}{name.partition(':')[0]}"
