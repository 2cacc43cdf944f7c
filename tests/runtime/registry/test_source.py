"""Where an engine comes from, and what the log says of it."""

import logging
import sys
from pathlib import Path

import pytest

from runtime.errors import EngineError, RegistryError
from runtime.llm import LLM
from runtime.registry import source
from runtime.registry.source import located
from tests.runtime.registry.engines import put_engine
from tests.runtime.registry.registry_stand_in import Web

SOURCE = source.SOURCE_VARIABLE


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without an engine, and no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRTPACK_DEVICE", "cpu")


def test_a_folder_is_a_folder() -> None:
    assert located("some/where") == Path("some/where")


def test_a_reference_is_pulled_and_the_log_says_what(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "runtime.registry.source")
    put_engine(web, {"nvidia-l4": "8.9"})
    folder = located(f"oci://{web.address}/x:1")
    assert (folder / "engine.json").is_file()
    begun, done, lies = caplog.messages
    assert begun == f"Pulling oci://{web.address}/x:1, 0.0 MB"
    assert done.startswith("Pulled 0.0 of 0.0 MB (100%), ")
    (digest,) = (name for name in web.manifests if name.startswith("sha256:") and name in lies)
    assert lies == f"Engine oci://{web.address}/x@{digest} lies in {folder}"


def test_progress_is_told_now_and_then(
    web: Web, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 10**6, 4))
    monkeypatch.setattr(source, "monotonic", lambda: float(next(seconds)))
    caplog.set_level(logging.INFO, "runtime.registry.source")
    put_engine(web, {"nvidia-l4": "8.9"}, files={f"weights/{n}": bytes([n]) * 10**5 for n in range(9)})
    located(f"oci://{web.address}/x:1")
    lines = [line for line in caplog.messages if line.startswith("Pulled")]
    assert 1 < len(lines) <= 1 + next(seconds) / 10
    assert [float(line.split()[1]) for line in lines] == sorted(float(line.split()[1]) for line in lines)
    assert lines[-1].startswith("Pulled 0.9 of 0.9 MB (100%), ")


def test_the_folder_engine_is_what_the_variable_names(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    put_engine(web, {"nvidia-l4": "8.9"})
    monkeypatch.setenv(SOURCE, f"oci://{web.address}/x:1")
    assert (located("engine") / "engine.json").is_file()
    assert located(Path.cwd() / "engine") == located("engine")
    assert located("draft") == Path("draft")
    Path("engine").mkdir()
    assert located("engine") == Path("engine")


def test_without_the_variable_the_folder_is_missing() -> None:
    with pytest.raises(EngineError, match=r"engine/engine\.json does not exist"):
        LLM("engine")


def test_a_variable_that_names_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOURCE, "ghcr.io/me/model:1")
    with pytest.raises(RegistryError, match=r"ghcr.io/me/model:1 is no engine to pull: write oci://"):
        located("engine")


def test_what_pulling_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("runtime.registry.")]:
        if name != "runtime.registry.source":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("runtime.registry.pull", raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(RegistryError, match=r"httpx is not installed: pip install 'trtpack\[pull\]'"):
        located("oci://localhost/x:1")
