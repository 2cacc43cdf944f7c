"""The stand-in, cache and home of the runtime's tests, and small engines."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.engine import manifest
from tests.plans import make_engine, record, write
from tests.runtime.registry.conftest import cache, web  # noqa: F401 (fixtures)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other push is waited for."""
    monkeypatch.setattr("packager.registry.engine.sleep", lambda seconds: None)


MakeEngine = Callable[..., Path]


@pytest.fixture(scope="session")
def weights() -> bytes:
    """What engines of one model have in common."""
    return bytes(range(256)) * 40


@pytest.fixture
def make(tmp_path: Path, weights: bytes) -> MakeEngine:
    """An engine's folder for compute capabilities, with fields of its manifest, and plans that differ by GPU."""

    def make_one(*capabilities: str, **fields: object) -> Path:
        folder = tmp_path / f"engine-{'-'.join(capabilities)}"
        shutil.rmtree(folder, ignore_errors=True)
        made = make_engine(folder, *capabilities, **{"backend": "tensorrt", **fields})
        write(folder, "weights/model-00001.safetensors", weights)
        for path in folder.glob("plans/*/*"):
            path.write_text(f"{path.parent.name} {path.name}")
        record(folder, made)
        assert manifest.read(folder).files
        return folder

    return make_one
