"""`trtpack build`, with a docker client that notes how it is called."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from packager.cli import main

CLIENT = """#!{python}
import json, os, pathlib, sys
arguments = sys.argv[1:]
if arguments[0] == "version":
    print(os.environ["VERSIONS"])
    sys.exit(int(os.environ["ENGINE_RC"]))
if arguments[0] == "buildx":
    sys.exit(int(os.environ["BUILDX_RC"]))
if arguments[:2] == ["image", "inspect"]:
    print(1234000000)
    sys.exit()
context = pathlib.Path(arguments[-1])
call = {{"arguments": arguments[:-1], "files": sorted(p.name for p in context.iterdir()), "context": str(context),
        "dockerfile": (context / "Dockerfile").read_text(), "buildkit": os.environ.get("DOCKER_BUILDKIT"),
        "host": os.environ.get("CONTAINER_HOST")}}
pathlib.Path(os.environ["CALL"]).write_text(json.dumps(call))
sys.exit(int(os.environ["BUILD_RC"]))
"""
Call = Callable[..., Result]


def trtpack(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["build", *map(str, arguments)])


def install(client: Path) -> None:
    client.parent.mkdir(exist_ok=True)
    client.write_text(CLIENT.format(python=sys.executable))
    client.chmod(0o755)


def versions(client: str, server: str | None = "20.10.24") -> str:
    return json.dumps({"Client": {"Version": client}, "Server": {"Version": server} if server else None})


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Puts the client on PATH; call it for what `docker build` was given."""
    install(tmp_path / "bin" / "docker")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("DOCKER_BUILDKIT", raising=False)
    monkeypatch.setenv("VERSIONS", versions("20.10.24"))
    monkeypatch.setenv("BUILDX_RC", "0")
    monkeypatch.setenv("CALL", str(tmp_path / "call.json"))
    monkeypatch.setenv("ENGINE_RC", "0")
    monkeypatch.setenv("BUILD_RC", "0")
    return lambda: json.loads((tmp_path / "call.json").read_text())


def test_builds_through_the_client(make_package: Callable[..., Path], docker: Callable[[], dict[str, Any]]) -> None:
    package = make_package(resources={"accelerator": "nvidia-gb200"})
    arguments = ("--tag", "r.example/x:1", "--tag", "x:2", "--build-arg", "A=1", "--build-arg", "B=")
    result = trtpack(package, *arguments, "--network", "host", "--secret", "id=pip,src=pip.conf", "--no-cache")
    assert result.exit_code == 0, result.output
    assert "built r.example/x:1, x:2: 1,234 MB" in result.output
    assert "trtpack run r.example/x:1" in result.output
    call = docker()
    assert call["arguments"] == [
        *("build", "--tag", "r.example/x:1", "--tag", "x:2", "--platform", "linux/arm64"),
        *("--build-arg", "A=1", "--build-arg", "B=", "--secret", "id=pip,src=pip.conf"),
        *("--network", "host", "--no-cache"),
    ]
    assert call["buildkit"] == "1"
    assert "Dockerfile" in call["files"]
    assert not Path(call["context"]).exists()
    assert not list(package.glob(".trtpack-*"))


def test_is_called_after_the_model_by_default(
    make_package: Callable[..., Path], docker: Callable[[], dict[str, Any]]
) -> None:
    assert trtpack(make_package()).exit_code == 0
    assert docker()["arguments"][:3] == ["build", "--tag", "tiny-1:latest"]


def test_another_platform_is_asked_for_by_name(
    make_package: Callable[..., Path], docker: Callable[[], dict[str, Any]]
) -> None:
    package = make_package(resources={"accelerator": "L4"})
    assert trtpack(package, "--platform", "linux/arm64").exit_code == 0
    assert docker()["arguments"][-1] == "linux/arm64"
    assert "on linux/arm64" in (package / "requirements.lock").read_text()
    result = trtpack(package, "--platform", "linux/s390x")
    assert (result.exit_code, "no image is built for linux/s390x" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("client", "buildx", "variable", "mounts"),
    [
        ("20.10.24", "1", None, True),
        ("27.3.1", "0", None, True),
        ("27.3.1", "1", None, False),
        ("20.10.24", "1", "0", False),
    ],
)
def test_without_buildkit_the_plain_form_is_built(
    make_package: Callable[..., Path],
    docker: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    client: str,
    buildx: str,
    variable: str | None,
    mounts: bool,
) -> None:
    monkeypatch.setenv("VERSIONS", versions(client))
    monkeypatch.setenv("BUILDX_RC", buildx)
    if variable is not None:
        monkeypatch.setenv("DOCKER_BUILDKIT", variable)
    package = make_package()
    assert trtpack(package).exit_code == 0
    assert (docker()["buildkit"], "--mount" in docker()["dockerfile"]) == ("1" if mounts else "0", mounts)
    secret = trtpack(package, "--secret", "id=pip,src=x")
    assert secret.exit_code == (0 if mounts else 2)
    assert ("--secret needs BuildKit" in secret.output) != mounts


def test_podman_builds_where_there_is_no_docker(
    make_package: Callable[..., Path],
    docker: Callable[[], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bin" / "docker").unlink()
    install(tmp_path / "bin" / "podman")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("VERSIONS", versions("5.2.0", None))
    monkeypatch.setenv("DOCKER_HOST", "ssh://builder")
    assert trtpack(make_package()).exit_code == 0
    assert "--mount" in docker()["dockerfile"]
    assert docker()["host"] == "ssh://builder"


def test_a_failed_build_fails(
    make_package: Callable[..., Path], docker: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_RC", "17")
    package = make_package()
    result = trtpack(package)
    assert result.exit_code == 1
    assert "docker build ended with exit code 17" in result.output
    assert not list(package.glob(".trtpack-*"))


def test_without_an_engine_it_says_how_to_start_one(
    make_package: Callable[..., Path], docker: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_RC", "1")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    result = trtpack(make_package())
    assert result.exit_code == 1
    assert "no Docker engine answers at unix:///nowhere.sock" in result.output
    assert "systemctl start docker" in result.output
    assert "--context-only OUT" in result.output


def test_without_a_client_it_says_what_else_to_do(
    make_package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = trtpack(make_package())
    assert result.exit_code == 1
    assert "no docker or podman command is installed" in result.output
    assert "--context-only OUT" in result.output


def test_context_only_needs_no_docker(
    make_package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = trtpack(make_package(), "--context-only", tmp_path / "out", "--base-image", "mine:2")
    assert result.exit_code == 0, result.output
    assert "ARG BASE_IMAGE=mine:2" in (tmp_path / "out" / "Dockerfile").read_text()
    assert f"--tag tiny-1:latest {tmp_path / 'out'}" in result.output


def test_print_dockerfile_writes_nothing(make_package: Callable[..., Path]) -> None:
    package = make_package(engine={"checkpoint": "hf://a/b"})
    before = sorted(package.rglob("*"))
    result = trtpack(package, "--print-dockerfile")
    assert result.exit_code == 0, result.output
    assert "COPY image/engine /out/engine" in result.stdout
    assert sorted(package.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--label", "nonsense"), "'nonsense' is not NAME=VALUE"),
        (("--trust-ca",), "--trust-ca needs --ca-cert FILE"),
        (("--wheels", "nowhere"), "'nowhere' does not exist"),
    ],
)
def test_wrong_usage(make_package: Callable[..., Path], arguments: tuple[str, ...], message: str) -> None:
    result = trtpack(make_package(), *arguments)
    assert (result.exit_code, message in result.output) == (2, True), result.output
