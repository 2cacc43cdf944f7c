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
    sys.exit(int(os.environ["ENGINE_RC"]))
context = pathlib.Path(arguments[-1])
call = {{"arguments": arguments[:-1], "files": sorted(p.name for p in context.iterdir()), "context": str(context),
        "buildkit": os.environ.get("DOCKER_BUILDKIT")}}
pathlib.Path(os.environ["CALL"]).write_text(json.dumps(call))
sys.exit(int(os.environ["BUILD_RC"]))
"""
Call = Callable[..., Result]


def trtpack(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["build", *map(str, arguments)])


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Puts the client on PATH; call it for what `docker build` was given."""
    client = tmp_path / "bin" / "docker"
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable))
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALL", str(tmp_path / "call.json"))
    monkeypatch.setenv("ENGINE_RC", "0")
    monkeypatch.setenv("BUILD_RC", "0")
    return lambda: json.loads((tmp_path / "call.json").read_text())


def test_builds_through_the_client(make_package: Callable[..., Path], docker: Callable[[], dict[str, Any]]) -> None:
    package = make_package(resources={"accelerator": "nvidia-gb200"})
    arguments = ("--tag", "r.example/x:1", "--build-arg", "A=1", "--build-arg", "B=", "--network", "host")
    result = trtpack(package, *arguments)
    assert result.exit_code == 0, result.output
    assert "built r.example/x:1" in result.output
    call = docker()
    assert call["arguments"] == [
        *("build", "--tag", "r.example/x:1", "--platform", "linux/arm64"),
        *("--build-arg", "A=1", "--build-arg", "B=", "--network", "host"),
    ]
    assert call["buildkit"] == "1"
    assert "Dockerfile" in call["files"]
    assert not Path(call["context"]).exists()
    assert not list(package.glob(".trtpack-*"))


def test_is_called_after_the_model_by_default(
    make_package: Callable[..., Path], docker: Callable[[], dict[str, Any]]
) -> None:
    assert trtpack(make_package()).exit_code == 0
    assert docker()["arguments"] == ["build", "--tag", "tiny-1:latest"]


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
    assert "no docker command is installed" in result.output
    assert "--context-only OUT" in result.output


def test_context_only_needs_no_docker(
    make_package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = trtpack(make_package(), "--context-only", tmp_path / "out", "--base-image", "mine:2")
    assert result.exit_code == 0, result.output
    assert "ARG BASE_IMAGE=mine:2" in (tmp_path / "out" / "Dockerfile").read_text()
    assert f"docker build --tag tiny-1:latest {tmp_path / 'out'}" in result.output


def test_print_dockerfile_writes_nothing(make_package: Callable[..., Path]) -> None:
    package = make_package(engine={"checkpoint": "hf://a/b"})
    before = sorted(package.rglob("*"))
    result = trtpack(package, "--print-dockerfile")
    assert result.exit_code == 0, result.output
    assert "COPY engine engine" in result.stdout
    assert sorted(package.rglob("*")) == before
