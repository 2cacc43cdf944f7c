"""The docker or podman command whose engine answers, and what it can do."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from packager.errors import TrtpackError

_COMMANDS = ("docker", "podman")
# From this release on, docker's command builds through its buildx plugin, and without it as it did before BuildKit.
_BUILDX = 23


@dataclass(frozen=True)
class Client:
    """`mounts`: builds take RUN --mount, for caches and secrets."""

    path: str
    mounts: bool
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_podman(self) -> bool:
        return self.name == "podman"

    def run(self, *arguments: str) -> int:
        """The exit code; what it says goes to stderr, where our own progress is."""
        return subprocess.run([self.path, *arguments], env=self.environment, stdout=2, check=False).returncode

    def identity(self, image: str) -> str | None:
        """The digest that the engine knows an image by; None for one that is not there."""
        command = [self.path, "image", "inspect", "--format", "{{.Id}}", image]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return None if done.returncode else done.stdout.strip()

    def ask(self, *arguments: str) -> str:
        """What it answers. Raises TrtpackError with what it says instead."""
        command = [self.path, *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            why = next((line for line in said if "rror" in line), said[0])
            raise TrtpackError(f"{self.name} {arguments[0]}: {why}")
        return done.stdout.strip()


def find(otherwise: str = "") -> Client:
    """Raises TrtpackError where no command is installed, or none has an engine that answers.

    `otherwise` is what there is to do without one, such as ", or write …".
    """
    present = [path for path in map(shutil.which, _COMMANDS) if path]
    if not present:
        raise TrtpackError("no docker or podman command is installed", f"Install one{otherwise}.")
    for path in present:
        environment = _environment(path)
        if (versions := _versions(path, environment)) is not None:
            mounts = _has_mounts(path, versions, environment)
            if path.endswith("docker"):
                environment["DOCKER_BUILDKIT"] = "1" if mounts else "0"
            return Client(path, mounts, environment)
    where = os.environ.get("DOCKER_HOST", "its default socket")
    raise TrtpackError(
        f"no Docker engine answers at {where}",
        f"Start one (Docker Desktop, or: sudo systemctl start docker){otherwise}.",
    )


def _environment(path: str) -> dict[str, str]:
    """podman has a name of its own for the engine to talk to."""
    host = os.environ.get("DOCKER_HOST")
    theirs = {"CONTAINER_HOST": host} if host and path.endswith("podman") else {}
    return {**theirs, **os.environ}


def _versions(path: str, environment: Mapping[str, str]) -> Mapping[str, Mapping[str, str] | None] | None:
    """Those of client and server; None where no engine answers."""
    command: Sequence[str] = [path, "version", "--format", "{{json .}}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    answer: Mapping[str, Mapping[str, str] | None] = json.loads(done.stdout)
    return answer


def _has_mounts(path: str, versions: Mapping[str, Mapping[str, str] | None], environment: Mapping[str, str]) -> bool:
    """podman builds with Buildah, which always has; it answers to the name docker too, and then has no Server."""
    client, server = versions.get("Client") or {}, versions.get("Server")
    if path.endswith("podman") or server is None:
        return True
    if environment.get("DOCKER_BUILDKIT") == "0":
        return False
    if int(client.get("Version", "0").partition(".")[0]) < _BUILDX:
        return True
    asked = [path, "buildx", "version"]
    return subprocess.run(asked, env=environment, capture_output=True, check=False).returncode == 0
