"""Why a model does not load, in the file from which Kubernetes takes a pod's termination message."""

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.server import termination


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file, empty as Kubernetes makes it."""
    path = tmp_path / "termination-log"
    path.touch()
    return path


def serve(package: Path, log: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.server", "--package", package, "--port", "0", "--termination-log", log]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


ENGINE_ERROR = """
from runtime.errors import EngineError
class Model:
    def load(self): raise EngineError("built for L4, and this is a T4")
    def predict(self): return 0
"""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ENGINE_ERROR, "Cannot load the model: built for L4, and this is a T4"),
        ("class Other: pass", "Cannot load the model: model/model.py defines no class Model"),
        ("raise ValueError('é')", "Exception while loading model: ValueError('é')"),
        ("import sys; sys.exit('not today')", "Exception while loading model: not today"),
    ],
)
def test_a_model_that_does_not_load_leaves_its_message(model: str, message: str, write, log: Path) -> None:
    log.write_text("what an earlier container of the pod left, longer than what comes now, which must not show" * 9)
    ended = serve(write(model), log)
    assert ended.returncode == 1
    assert log.read_text(encoding="utf-8").partition(";")[0] == message


def test_a_package_that_cannot_be_read_leaves_its_message(write, log: Path) -> None:
    ended = serve(write("", "a: ["), log)
    assert ended.returncode == 1
    assert "config.yaml is not YAML" in log.read_text()
    assert ended.stderr == f"error: {log.read_text()}\n"


def test_without_the_file_none_is_made(write, tmp_path: Path) -> None:
    ended = serve(write(ENGINE_ERROR), tmp_path / "none")
    assert ended.returncode == 1
    assert "Cannot load the model: built for L4" in ended.stderr
    assert not (tmp_path / "none").exists()


def test_kubernetes_limit_is_kept_and_no_character_is_cut(log: Path) -> None:
    termination.write("x" + "é" * 4096, log)
    assert log.read_text(encoding="utf-8") == "x" + "é" * 2047


@pytest.mark.parametrize("path", ["/dev/full", "/", "/proc/version", "/not/there"])
def test_it_never_fails(path: str) -> None:
    termination.write("message", Path(path))


def test_the_default_is_where_kubernetes_mounts_it() -> None:
    assert str(termination.PATH) == "/dev/termination-log"
