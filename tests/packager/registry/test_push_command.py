"""`trtpack push` and `trtpack pull`, against a stand-in of a registry and one of the docker command."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from packager.cli import main
from runtime.engine import manifest as manifests
from tests.packager.registry.conftest import MakeEngine
from tests.runtime.registry.registry_stand_in import Web

# What the docker command is asked, a line each; the images that it has are files, which hold what they are known by.
DOCKER = """#!/bin/sh
echo "$@" >> "$0.asked"
place() { echo "$(dirname "$0")/$(echo "$1" | tr / _)"; }
case "$1 $2 $4" in
  "version "*) echo '{"Client": {"Version": "20.10.24"}, "Server": {"Version": "20.10.24"}}';;
  "image inspect {{.Id}}") cat "$(place "$5")";;
  "image inspect {{json .RepoDigests}}") echo '["other/name@sha256:0", "ghcr.io/me/m@sha256:1"]';;
  "image inspect {{json .RepoTags}}") echo "${TAGS:-[\\"smol:latest\\", \\"ghcr.io/me/m:1\\"]}";;
  "tag "*) cp "$(place "$2")" "$(place "$3")";;
  "rmi "*) rm "$(place "$2")";;
  "push "*) exit ${PUSH_CODE:-0};;
esac
"""
CHANGES = ("tag", "push", "rmi")


def trtpack(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "config.yaml").write_text("model_name: Smol\nresources: {accelerator: L4}\nengine: {checkpoint: a}\n")
    return folder


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a docker command that has the image smol:latest."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    (folder / "smol:latest").write_text("sha256:2")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def changes(docker: Path) -> list[str]:
    return [line for line in (docker / "docker.asked").read_text().splitlines() if line.startswith(CHANGES)]


def test_an_engine_goes_there_and_back_into_its_package(web: Web, make: MakeEngine, package: Path) -> None:
    make("8.9", "9.0").rename(package / "engine")
    place = f"oci://{web.address}/me/smol:1"
    result = trtpack("push", "--engine", package, place)
    assert result.exit_code == 0, result.stderr
    first, reference, *_ = result.stdout.splitlines()
    assert first == "pushed the engine for nvidia-l4, nvidia-h100-80gb, 0.0 of 0.0 MB sent"
    assert reference in (f"oci://{web.address}/me/smol@{name}" for name in web.manifests)
    result = trtpack("pull", place, "--out", package)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1] == str(package / "engine")
    found = manifests.read(package / "engine")
    assert [target.gpu for target in found.targets] == ["nvidia-l4"]  # the package's accelerator
    manifests.verify(package / "engine", found)


def test_an_engines_folder_will_do(web: Web, make: MakeEngine, tmp_path: Path, cache: Path) -> None:
    assert trtpack("push", "--engine", make("8.9"), f"oci://{web.address}/smol:1").exit_code == 0
    result = trtpack("pull", f"oci://{web.address}/smol:1", "--gpu", "L4", "--out", tmp_path / "out")
    assert f"trtpack inspect {tmp_path / 'out'}" in result.stdout
    assert trtpack("inspect", tmp_path / "out").exit_code == 0
    result = trtpack("pull", f"oci://{web.address}/smol:1", "--gpu", "L4")
    assert Path(result.stdout.splitlines()[1]).is_relative_to(cache)


def test_a_pull_does_not_replace_somebody_elses_folder(web: Web, make: MakeEngine, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    result = trtpack("pull", f"oci://{web.address}/smol:1", "--out", tmp_path / "out")
    assert (result.exit_code, "is not an engine" in result.stderr, web.asked) == (1, True, [])


def test_replace_puts_another_model_in_its_place(web: Web, make: MakeEngine) -> None:
    place, engine = f"oci://{web.address}/smol:1", make("8.9")
    trtpack("push", "--engine", engine, place)
    made = manifests.read(engine)
    other = made.model_copy(update={"model": made.model.model_copy(update={"revision": "def"})})
    (engine / "engine.json").write_text(other.dump())
    refused = trtpack("push", "--engine", engine, place)
    assert refused.stderr.splitlines()[-2:] == [
        f"error: {place} has an engine of hf://org/[tiny] at abc, and this one is of hf://org/[tiny] at def",
        "  Push to another tag, or put this engine in its place with: --replace",
    ]
    assert trtpack("push", "--engine", engine, place, "--replace").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["push", "--engine", "ghcr.io/me/m:1"], 2, "ghcr.io/me/m:1 is no place for an engine"),
        (["push", "--engine", "oci://me/m:1"], 1, "names nothing in a registry"),
        (["push", "oci://ghcr.io/me/m:1"], 2, "is no name of an image"),
        (["push", "a", "b", "c"], 2, "expected at most a folder and a reference"),
        (["push"], 2, "Missing argument"),
        (["pull", "ghcr.io/me/m:1"], 1, "ghcr.io/me/m:1 is no engine to pull: write oci://"),
        (["pull", "oci://ghcr.io/me/m:1", "--gpu", "L5"], 2, "unknown GPU 'L5'"),
    ],
)
def test_wrong_usage(
    arguments: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = trtpack(*arguments)
    assert result.exit_code == code
    assert said in result.stderr


def test_an_engine_that_is_not_compiled(web: Web, package: Path) -> None:
    result = trtpack("push", "--engine", package, f"oci://{web.address}/m:1")
    assert (result.exit_code, f"{package}/engine/engine.json does not exist" in result.stderr) == (1, True)


def test_the_hub_is_pushed_to_and_pulled_from(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the modules of the Hub are called with."""
    from runtime.registry.pull import Pulled

    engine, calls = make("8.9"), []

    def push(folder: Path, repo: str, **options: Any) -> str:
        calls.append((folder, repo, options))
        return f"{repo}@abc"

    def pull(source: str, device: object, gpu: str | None, *, progress: object) -> Pulled:
        calls.append((source, gpu))
        return Pulled(f"{source}@abc", engine)

    for name, function in (("packager.registry.hub", push), ("runtime.registry.hub", pull)):
        module = ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
    result = trtpack("push", "--engine", engine, "hf://me/m", "--revision", "dev", "--public")
    assert "hf://me/m@abc" in result.stdout
    result = trtpack("pull", "hf://me/m", "--gpu", "L4", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert calls == [(engine, "hf://me/m", {"revision": "dev", "private": False}), ("hf://me/m", "nvidia-l4")]
    assert manifests.read(tmp_path / "out") == manifests.read(engine)


def test_an_image_is_pushed_under_another_name(docker: Path, package: Path) -> None:
    result = trtpack("push", package, "ghcr.io/me/m:1", "--no-attest")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == "pushed ghcr.io/me/m@sha256:1"
    assert changes(docker) == ["tag smol:latest ghcr.io/me/m:1", "push ghcr.io/me/m:1", "rmi ghcr.io/me/m:1"]


def test_an_image_keeps_its_last_name(docker: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGS", '["ghcr.io/me/m:1"]')
    assert trtpack("push", package, "ghcr.io/me/m:1", "--no-attest").exit_code == 0
    assert changes(docker) == ["tag smol:latest ghcr.io/me/m:1", "push ghcr.io/me/m:1"]


def test_an_image_that_was_built_under_that_name(docker: Path, package: Path, tmp_path: Path) -> None:
    (docker / "smol:latest").rename(docker / "ghcr.io_me_m:1")
    assert trtpack("push", package, "ghcr.io/me/m:1", "--no-attest").exit_code == 0
    assert trtpack("push", tmp_path, "ghcr.io/me/m:1", "--no-attest").exit_code == 0, "a folder that is no package"
    assert changes(docker) == ["push ghcr.io/me/m:1", "push ghcr.io/me/m:1"]


def test_an_older_image_is_not_pushed_by_mistake(docker: Path, package: Path) -> None:
    (docker / "ghcr.io_me_m:1").write_text("sha256:3")
    result = trtpack("push", package, "ghcr.io/me/m:1")
    assert (result.exit_code, changes(docker)) == (2, [])
    assert result.stderr.splitlines() == [
        "error: ghcr.io/me/m:1 and smol:latest are two images, and either may be meant",
        "  Say with: --image NAME",
    ]
    assert trtpack("push", package, "ghcr.io/me/m:1", "--image", "smol:latest", "--no-attest").exit_code == 0
    assert changes(docker) == ["tag smol:latest ghcr.io/me/m:1", "push ghcr.io/me/m:1"]


def test_an_image_that_is_named(docker: Path, package: Path) -> None:
    assert "there is no image mine here" in trtpack("push", package, "ghcr.io/me/m:1", "--image", "mine").stderr
    (docker / "mine").write_text("sha256:4")
    assert trtpack("push", package, "ghcr.io/me/m:1", "--image", "mine", "--no-attest").exit_code == 0
    assert "tag mine ghcr.io/me/m:1" in changes(docker)


def test_no_image_was_built(docker: Path, package: Path) -> None:
    (docker / "smol:latest").unlink()
    result = trtpack("push", package, "ghcr.io/me/m:1")
    assert result.stderr.splitlines() == [
        "error: there is no image smol:latest here",
        f"  Build it with: trtpack build {package}",
    ]


def test_a_push_that_docker_fails_at(docker: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSH_CODE", "3")
    result = trtpack("push", package, "ghcr.io/me/m:1")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: docker push ended with exit code 3",
        "  Its output above says why; to log in: docker login ghcr.io",
    ]


def test_no_client_is_installed(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no docker or podman command is installed" in trtpack("push", package, "ghcr.io/me/m:1").stderr
