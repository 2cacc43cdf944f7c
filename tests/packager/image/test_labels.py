"""What an image says of itself."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.config import PackageConfig
from packager.errors import ConfigError
from packager.image.labels import OCI, labels
from packager.image.options import Options
from runtime.engine import manifest

Loaded = Callable[..., tuple[Path, PackageConfig]]


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def committed(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, PackageConfig]:
    package, config = loaded()
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2026-11-21T21:00:00+01:00")
    git(package, "init", "--quiet")
    git(package, "remote", "add", "origin", "https://me:secret@git.example/me/tiny.git")
    git(package, "add", "config.yaml", "model")
    git(package, "commit", "--quiet", "--message", "first")
    git(package, "tag", "v1.2")
    return package, config


def test_the_gpu_and_the_engine(loaded: Loaded, tiny_engine: Callable[..., Path]) -> None:
    package, config = loaded(resources={"accelerator": "H100:2"}, description="Two\nlines")
    engine = tiny_engine()
    found = labels(package, config, manifest.read(engine), Options())
    assert found[f"{OCI}.title"] == "Tiny 1"
    assert found[f"{OCI}.description"] == "Two lines"
    assert found["trtpack.gpu"] == "nvidia-h100-80gb"
    assert found["trtpack.compute-capability"] == "9.0"
    assert found["trtpack.backend"] == "torch"
    assert found["trtpack.backend-version"] == manifest.read(engine).backend.version
    assert found["trtpack.engine"] == f"sha256:{manifest.sha256(engine / 'engine.json')}"


def test_without_a_gpu_or_git_nothing_is_made_up(loaded: Loaded) -> None:
    package, config = loaded()
    assert set(labels(package, config, None, Options())) == {f"{OCI}.title", "trtpack.version"}


def test_the_commit(committed: tuple[Path, PackageConfig]) -> None:
    package, config = committed
    found = labels(package, config, None, Options())
    assert found[f"{OCI}.source"] == "https://git.example/me/tiny.git"
    assert found[f"{OCI}.revision"] == git(package, "rev-parse", "HEAD")
    assert found[f"{OCI}.version"] == "v1.2"
    assert found[f"{OCI}.created"] == "2026-11-21T20:00:00Z"


def test_what_is_not_committed_is_told(committed: tuple[Path, PackageConfig]) -> None:
    package, config = committed
    (package / "requirements.lock").write_text("untracked")
    assert "dirty" not in str(labels(package, config, None, Options()))
    (package / "model" / "model.py").write_text("class Model: ...\n")
    found = labels(package, config, None, Options())
    assert found[f"{OCI}.revision"] == f"{git(package, 'rev-parse', 'HEAD')}-dirty"
    assert found[f"{OCI}.version"] == "v1.2-dirty"


def test_a_repository_that_ignores_the_package_is_not_its_source(committed: tuple[Path, PackageConfig]) -> None:
    package, config = committed
    git(package, "rm", "--quiet", "--cached", "config.yaml")
    assert f"{OCI}.source" not in labels(package, config, None, Options())


def test_options_and_the_environment_come_first(
    committed: tuple[Path, PackageConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    package, config = committed
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    found = labels(package, config, None, Options(labels={f"{OCI}.version": "7", "team": "mine"}))
    assert (found[f"{OCI}.version"], found["team"]) == ("7", "mine")
    assert found[f"{OCI}.created"] == "2001-09-09T01:46:40Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        labels(package, config, None, Options())
