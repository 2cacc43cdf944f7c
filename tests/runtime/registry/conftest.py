"""What the tests of registries share: a cache and a home of their own, and a stand-in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.registry.registry_stand_in import Web, registry


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of this machine's own configuration is read, nothing is written into its cache, no time is waited."""
    monkeypatch.setenv("TRTPACK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("TRTPACK_ENGINE_SOURCE", raising=False)
    monkeypatch.setattr("runtime.registry.client.sleep", lambda seconds: None)
    monkeypatch.setattr("runtime.registry.blobs.sleep", lambda seconds: None)
    return tmp_path / "cache"


@pytest.fixture
def web() -> Iterator[Web]:
    with registry() as web:
        yield web
