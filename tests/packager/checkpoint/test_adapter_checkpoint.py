"""Adapters come from a folder, the Hub, an archive or a bucket, as checkpoints do; the last is in test_remote.py."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from packager.checkpoint.adapter import open_adapter
from packager.errors import TrtpackError
from runtime.lora.adapter import FILES
from tests.adapters import make_adapter
from tests.packager.checkpoint import hub_stand_in, web_stand_in
from tests.packager.checkpoint.hub_stand_in import COMMIT


@pytest.fixture
def adapter(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """With what training leaves beside it."""
    folder = make_adapter(tiny_checkpoint("llama"), tmp_path / "adapter", target_modules=["q_proj"])
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def test_a_folder_is_relative_to_the_package(adapter: Path) -> None:
    opened = open_adapter("poet", "adapter", adapter.parent)
    assert (opened.name, opened.source, opened.folder, opened.revision) == ("poet", "adapter", adapter, None)


@pytest.mark.parametrize("source", ["nowhere", "ftp://a/b"])
def test_no_folder(source: str, tmp_path: Path) -> None:
    with pytest.raises(TrtpackError, match=f"^engine.adapters.poet: {source} is no folder\n  Name the folder"):
        open_adapter("poet", source, tmp_path)


def test_the_hub_is_asked_for_the_two_files_alone(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_stand_in.serving(adapter) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        opened = open_adapter("poet", "hf://org/tiny@v1", Path())
        assert (opened.source, opened.revision) == ("hf://org/tiny@v1", COMMIT)
        assert contents(opened.folder) == contents(adapter)
        assert not hub.asked("GET", "optimizer.pt") and not hub.asked("GET", "tokenizer.json")
        (adapter / "adapter_config.json").rename(adapter / "config.json")
        with pytest.raises(TrtpackError, match=r"^hf://org/tiny has no adapter_config\.json$"):
            open_adapter("poet", "hf://org/tiny", Path())


def test_an_archive(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTPACK_CACHE_DIR", str(tmp_path / "cache"))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(adapter, "run/adapter")
    with web_stand_in.serving(packed.getvalue()) as web:
        opened = open_adapter("poet", f"{web.url}?signature=secret", Path())
    assert contents(opened.folder) == contents(adapter)
    assert "secret" not in opened.source
