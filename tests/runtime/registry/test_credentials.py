"""Who we are to a registry, by Docker's own configuration."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import RegistryError
from runtime.registry.credentials import Credentials, find

AUTH = base64.b64encode(b"me:open sesame").decode()


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of DOCKER_CONFIG, and of a PATH for helpers."""
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def configure(docker: Path, **config: Any) -> None:
    (docker / "config.json").write_text(json.dumps(config))


def helper(docker: Path, name: str, script: str) -> None:
    path = docker / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_nobody_has_logged_in(docker: Path) -> None:
    assert find("ghcr.io") is None


def test_a_user_without_a_home_has_no_credentials(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setattr(Path, "home", home)
    assert find("ghcr.io") is None


def test_what_docker_login_wrote(docker: Path) -> None:
    configure(docker, auths={"ghcr.io": {"auth": AUTH}, "localhost:5000": {"auth": "eDp5"}})
    assert find("ghcr.io") == Credentials("me", "open sesame")
    assert find("localhost:5000") == Credentials("x", "y")
    assert find("localhost") is None


def test_docker_hub_has_a_key_of_its_own(docker: Path) -> None:
    configure(docker, auths={"https://index.docker.io/v1/": {"auth": AUTH}})
    assert find("docker.io") == Credentials("me", "open sesame")


def test_an_identity_token(docker: Path) -> None:
    configure(docker, auths={"a.azurecr.io": {"auth": "MDA6", "identitytoken": "t"}})
    assert find("a.azurecr.io") == Credentials(identity_token="t")


def test_a_kubernetes_secret_may_name_user_and_password(docker: Path) -> None:
    configure(docker, auths={"ghcr.io": {"username": "me", "password": "p"}})
    assert find("ghcr.io") == Credentials("me", "p")


def test_a_registrys_own_helper_goes_before_the_general_one_and_the_file(docker: Path) -> None:
    helper(docker, "own", """read key; echo "{\\"Username\\": \\"$key\\", \\"Secret\\": \\"own\\"}" """)
    helper(docker, "general", """echo '{"Username": "<token>", "Secret": "general"}'""")
    auths = {"ghcr.io": {"auth": AUTH}, "other.io": {"auth": AUTH}}
    configure(docker, auths=auths, credHelpers={"ghcr.io": "own"}, credsStore="general")
    assert find("ghcr.io") == Credentials("ghcr.io", "own")
    assert find("other.io") == Credentials(identity_token="general")


def test_a_helper_that_knows_nothing_leaves_it_to_the_file(docker: Path) -> None:
    helper(docker, "empty", "echo 'credentials not found in native keychain'; exit 1")
    configure(docker, auths={"ghcr.io": {"auth": AUTH}}, credsStore="empty")
    assert find("ghcr.io") == Credentials("me", "open sesame")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo the keychain is locked >&2; exit 1", "the keychain is locked"),
        ("echo not JSON", "did not answer as a credential helper does"),
        ("echo '{}'", "did not answer as a credential helper does"),
    ],
)
def test_a_helper_that_fails(docker: Path, script: str, said: str) -> None:
    helper(docker, "bad", script)
    configure(docker, credsStore="bad")
    with pytest.raises(RegistryError, match=f"docker-credential-bad.*{said}"):
        find("ghcr.io")


def test_a_helper_that_is_not_there(docker: Path) -> None:
    configure(docker, credsStore="absent")
    with pytest.raises(RegistryError, match=r"docker-credential-absent.*ghcr\.io.*No such file"):
        find("ghcr.io")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ('{"auths": []}', None),
        ('{"auths": ["x"]}', "auths holds no JSON object"),
        ('{"auths": {"ghcr.io": {"auth": "%"}}}', "broken credentials for ghcr.io"),
        ('{"auths": {"ghcr.io": "x"}}', None),
        ('{"auths": {"ghcr.io": {}}}', None),
    ],
)
def test_a_file_that_docker_did_not_write(docker: Path, text: str, said: str | None) -> None:
    (docker / "config.json").write_text(text)
    if said is None:
        assert find("ghcr.io") is None
    else:
        with pytest.raises(RegistryError, match=said):
            find("ghcr.io")
