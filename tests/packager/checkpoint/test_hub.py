"""hf:// checkpoints, downloaded from a stand-in for the Hub on loopback (hub_stand_in.py), never the real one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from packager import progress
from packager.checkpoint import Checkpoint, open_checkpoint
from packager.errors import TrtpackError
from tests.packager.checkpoint.hub_stand_in import COMMIT, Hub, serving
from tests.tiny import make_checkpoint


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = make_checkpoint("llama", tmp_path / "repo", max_shard_size="100KB")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.safetensors").write_bytes(b"other format")
    (folder / "consolidated.safetensors").write_bytes(b"the same again")
    with serving(folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's retries
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def opened(source: str = "hf://org/tiny") -> Checkpoint:
    return open_checkpoint(source, Path())


def test_downloads_what_it_reads_and_pins_the_commit(hub: Hub, tmp_path: Path) -> None:
    checkpoint = opened()
    assert (checkpoint.source, checkpoint.revision) == ("hf://org/tiny", COMMIT)
    for path in hub.folder.glob("model-*.safetensors"):
        for name, tensor in load_file(path).items():
            assert torch.equal(checkpoint.get(name), tensor)
    (tmp_path / "out").mkdir()
    checkpoint.write_tokenizer(tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_bytes() == (hub.folder / "chat_template.jinja").read_bytes()


def test_leaves_pickles_and_other_formats_where_they_are(hub: Hub) -> None:
    opened()
    assert hub.asked("GET", ".safetensors")
    assert not hub.asked("GET", "pytorch_model.bin")
    assert not hub.asked("GET", "consolidated.safetensors")


@pytest.mark.parametrize("revision", ["main", "v1", COMMIT])
def test_a_revision_may_be_named(revision: str, hub: Hub) -> None:
    checkpoint = opened(f"hf://org/tiny@{revision}")
    assert (checkpoint.source, checkpoint.revision) == (f"hf://org/tiny@{revision}", COMMIT)


def test_a_second_time_downloads_nothing(hub: Hub) -> None:
    opened()
    hub.requests.clear()
    opened()
    assert not hub.asked("GET", ".safetensors")


def test_progress_counts_every_byte_once(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[float | None, list[float]]] = []

    @contextmanager
    def task(title: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        done: list[float] = []
        told.append((total, done))
        yield done.append

    monkeypatch.setattr(progress, "task", task)
    capfd.readouterr()
    opened()
    [(total, done)] = told
    assert sum(done) == total
    assert total > sum(path.stat().st_size for path in hub.folder.glob("model-*.safetensors"))
    opened()
    assert len(told) == 1  # nothing to download, nothing to show
    assert "Fetching" not in capfd.readouterr().err  # the library's own bars


def test_the_cache_serves_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    opened()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert opened().revision == COMMIT


def test_a_broken_download_goes_on_where_it_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    name = sorted(hub.folder.glob("model-*.safetensors"))[0].name
    hub.breaks[name] = 1
    opened()
    resumed = [int(range_[6:].rstrip("-")) for range_ in hub.asked("GET", name) if range_]
    half = (hub.folder / name).stat().st_size // 2
    assert resumed and half - 1024 < resumed[0] <= half


def test_a_second_try_keeps_the_files_that_arrived(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    last = sorted(path.name for path in hub.folder.glob("model-*.safetensors"))[-1]
    hub.breaks[last] = 1000
    with pytest.raises(TrtpackError, match="broke off") as caught:
        opened()
    assert "Try again" in str(caught.value.hint)
    arrived = {path.name for path in Path(constants.HF_HUB_CACHE).glob("models--org--tiny/snapshots/*/*.safetensors")}
    hub.breaks.clear()
    hub.requests.clear()
    opened()
    assert hub.asked("GET", last)
    assert arrived and not any(hub.asked("GET", name) for name in arrived)


def test_an_unsupported_model_costs_no_download(hub: Hub) -> None:
    config = json.loads((hub.folder / "config.json").read_text())
    (hub.folder / "config.json").write_text(json.dumps({**config, "architectures": ["MambaForCausalLM"]}))
    with pytest.raises(TrtpackError, match="MambaForCausalLM is not supported; supported: LlamaForCausalLM"):
        opened()
    assert not hub.asked("GET", ".safetensors")


def test_an_unknown_repository_is_told(hub: Hub) -> None:
    with pytest.raises(TrtpackError, match=f"hf://org/nothing is not on {hub.url}, or is private") as caught:
        opened("hf://org/nothing")
    assert "HF_TOKEN" in str(caught.value.hint)


def test_an_unknown_revision_is_told(hub: Hub) -> None:
    with pytest.raises(TrtpackError, match="hf://org/tiny@v9: the repository has no such revision"):
        opened("hf://org/tiny@v9")


def test_a_gated_repository_is_told(hub: Hub) -> None:
    hub.token, hub.gated = "hf_secret", True
    with pytest.raises(TrtpackError, match="is gated") as caught:
        opened()
    assert f"{hub.url}/org/tiny" in str(caught.value.hint)
    assert "HF_TOKEN" in str(caught.value.hint)


def test_a_repository_without_a_config_is_told(hub: Hub) -> None:
    (hub.folder / "config.json").unlink()
    with pytest.raises(TrtpackError, match=r"has no config\.json"):
        opened()


def test_pickles_alone_are_told(hub: Hub) -> None:
    for path in hub.folder.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(TrtpackError, match="holds no safetensors weights"):
        opened()


def test_no_network_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TrtpackError, match=r"cannot reach http://127\.0\.0\.1:9") as caught:
        opened()
    assert "HF_ENDPOINT" in str(caught.value.hint)


def test_a_refusal_is_told(hub: Hub) -> None:
    hub.status = 403
    with pytest.raises(TrtpackError) as caught:
        opened()
    assert "HTTP 403" in caught.value.message
    assert "HF_TOKEN" in str(caught.value.hint)


@pytest.mark.parametrize("source", ["hf://", "hf://tiny", "hf://org/tiny@", "hf://org/tiny/file", "hf://org/ti ny"])
def test_a_malformed_name_is_told(source: str) -> None:
    with pytest.raises(TrtpackError, match="is not a Hub checkpoint") as caught:
        opened(source)
    assert "hf://ORG/NAME" in str(caught.value.hint)


def test_endpoint_and_token_come_from_the_environment(hub: Hub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    code = """
from pathlib import Path
from packager.checkpoint import open_checkpoint
print(open_checkpoint("hf://org/tiny", Path()).revision)
"""
    home = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **home}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == COMMIT, done.stderr
    assert "Downloading org/tiny" in done.stderr
    assert list((tmp_path / "home").rglob("*.safetensors"))
