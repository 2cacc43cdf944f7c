"""`python -m runtime.registry`: the pull that an init container does before the server starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.registry.engines import put_engine
from tests.runtime.registry.registry_stand_in import Web

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def pull(here: Path, source: str) -> subprocess.CompletedProcess[str]:
    here.mkdir(exist_ok=True)
    given = {"PYTHONPATH": str(ROOT), "TRTPACK_ENGINE_SOURCE": source, "TRTPACK_DEVICE": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "runtime.registry"],
        cwd=here,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_server_finds_in_the_cache_what_was_pulled(web: Web, tmp_path: Path, cache: Path) -> None:
    put_engine(web, {"nvidia-l4": "8.9"})
    source = f"oci://{web.address}/x:1"
    done = pull(tmp_path / "app", source)
    assert done.returncode == 0, done.stderr
    assert f"Pulling {source}" in done.stdout + done.stderr
    blobs = web.count("GET", "/blobs/")
    assert blobs
    assert [path.name for path in cache.glob("engines/*/engine.json")] == ["engine.json"]
    assert pull(tmp_path / "app", source).returncode == 0
    assert web.count("GET", "/blobs/") == blobs


def test_what_cannot_be_pulled_is_one_line(web: Web, tmp_path: Path) -> None:
    done = pull(tmp_path / "app", f"oci://{web.address}/nothing:1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
