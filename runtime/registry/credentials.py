"""Who we are to a registry, as Docker's own configuration says: from `docker login`, or a Secret mounted there."""

import base64
import binascii
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import RegistryError

FOLDER_VARIABLE = "DOCKER_CONFIG"
# Docker Hub is known to Docker's configuration by the address of its first API.
_HUB, _HUB_KEY = "docker.io", "https://index.docker.io/v1/"
# What a credential helper gives as the user's name where its secret is an identity token
# (docs.docker.com/reference/cli/docker/login, "Credential helper protocol").
_TOKEN_USER = "<token>"
_HELPER_SECONDS = 60


@dataclass(frozen=True)
class Credentials:
    """A user's name and password, or an identity token that stands for both."""

    username: str = ""
    password: str = ""
    identity_token: str | None = None


def find(registry: str) -> Credentials | None:
    """What Docker would use for `registry`, host[:port]; None where it has nothing. Raises RegistryError.

    The order is Docker's: the registry's own credential helper, the general one, the file itself.
    """
    path = _folder() / "config.json"
    config = _read(path)
    key = _HUB_KEY if registry == _HUB else registry
    helper = _section(path, config, "credHelpers").get(key) or config.get("credsStore")
    found = _ask(str(helper), key) if helper else None
    return found or _stored(path, _section(path, config, "auths"), key)


def _folder() -> Path:
    named = os.environ.get(FOLDER_VARIABLE)
    try:
        return Path(named) if named else Path.home() / ".docker"
    except RuntimeError:  # a user without a home
        return Path("/nonexistent")


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise RegistryError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise RegistryError(f"{path} is not what docker login writes: it holds no JSON object")
    return config


def _section(path: Path, config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise RegistryError(f"{path} is not what docker login writes: {name} holds no JSON object")
    return section


def _ask(helper: str, key: str) -> Credentials | None:
    """Runs docker-credential-HELPER, as Docker does; None where it knows nothing of the registry."""
    command = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [command, "get"], input=key, capture_output=True, text=True, timeout=_HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryError(f"{command}, which Docker's configuration names for {key}, failed: {error}") from error
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        if "not found" in said or not said:
            return None
        raise RegistryError(f"{command}, which Docker's configuration names for {key}, failed: {said}")
    try:
        answer = json.loads(done.stdout)
        return _of(str(answer["Username"]), str(answer["Secret"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{command} did not answer as a credential helper does: {error!r}") from error


def _stored(path: Path, auths: dict[str, Any], key: str) -> Credentials | None:
    entry = next((auths[name] for name in (key, f"https://{key}", f"https://{key}/v2/") if name in auths), None)
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return Credentials(identity_token=str(token))
    if "auth" not in entry:
        return _of(str(entry["username"]), str(entry.get("password", ""))) if entry.get("username") else None
    try:
        username, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise RegistryError(f"{path} holds broken credentials for {key}; write them again with docker login") from error
    return _of(username, password.rstrip("\0"))


def _of(username: str, secret: str) -> Credentials:
    return Credentials(identity_token=secret) if username == _TOKEN_USER else Credentials(username, secret)
