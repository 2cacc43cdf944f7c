"""Checkpoints behind a URL: loopback stands for the web, fsspec's memory for the buckets."""

import fcntl
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from packager.checkpoint import Checkpoint, open_checkpoint
from packager.checkpoint.adapter import open_adapter
from packager.checkpoint.folder import FolderCheckpoint
from packager.checkpoint.gguf import GgufCheckpoint
from packager.errors import TrtpackError
from runtime.lora.adapter import FILES
from tests.adapters import make_adapter
from tests.packager.checkpoint.ggufs import write_gguf
from tests.packager.checkpoint.web_stand_in import Web, serving

Checkpoints = Callable[[str], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTPACK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints"


@pytest.fixture
def folder(tiny_checkpoint: Checkpoints) -> Path:
    return tiny_checkpoint("llama")


def packed(folder: Path, inside: str = "model", mode: str = "w:gz", **more: bytes) -> bytes:
    """The folder as a tar archive; `more` is other members by name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in more.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        tar.add(folder, inside)
    return out.getvalue()


@pytest.fixture
def web(folder: Path) -> Iterator[Web]:
    with serving(packed(folder)) as server:
        yield server


def opened(source: str) -> Checkpoint:
    return open_checkpoint(source, Path("/nowhere"))


def is_the_same(checkpoint: Checkpoint, folder: Path) -> bool:
    original = FolderCheckpoint(folder, "original")
    assert checkpoint.shapes == original.shapes
    return all(torch.equal(checkpoint.get(name), original.get(name)) for name in original.shapes)


def refused(source: str) -> TrtpackError:
    with pytest.raises(TrtpackError) as caught:
        opened(source)
    return caught.value


class TestWeb:
    def test_an_archive_is_unpacked_and_kept(self, web: Web, folder: Path, tmp_path: Path, cache: Path) -> None:
        checkpoint = opened(web.url)
        assert is_the_same(checkpoint, folder)
        assert checkpoint.source == web.url.partition("?")[0]
        checkpoint.write_tokenizer(tmp_path)
        assert (tmp_path / "tokenizer.json").is_file()
        sent = web.sent
        assert is_the_same(opened(web.url.replace("secret", "another")), folder)
        assert web.sent - sent <= 1
        (kept,) = cache.iterdir()
        assert sorted(path.name for path in kept.iterdir()) == ["files", "files.json"]
        assert "secret" not in "".join(path.read_text() for path in cache.rglob("*.json"))

    @pytest.mark.parametrize("mode", ["w", "w:bz2", "w:xz"])
    def test_other_compressions(self, web: Web, folder: Path, mode: str) -> None:
        web.content = packed(folder, ".", mode)
        assert is_the_same(opened(web.url), folder)

    def test_a_broken_download_goes_on_where_it_stopped(self, web: Web, folder: Path) -> None:
        web.breaks = 1
        error = refused(web.url)
        assert "what has arrived is kept" in str(error)
        assert "secret" not in str(error)
        sent, web.ranges = web.sent, []
        assert is_the_same(opened(web.url), folder)
        assert web.ranges == ["bytes=0-0", f"bytes={sent - 1}-"]
        assert web.sent - sent == len(web.content) - sent + 2

    def test_what_changed_meanwhile_begins_anew(self, web: Web, folder: Path) -> None:
        web.breaks = 1
        refused(web.url)
        web.content = packed(folder, "renamed")
        assert is_the_same(opened(web.url), folder)

    def test_what_changed_later_is_fetched_again(
        self, web: Web, folder: Path, tiny_checkpoint: Checkpoints, cache: Path
    ) -> None:
        opened(web.url)
        web.content = packed(tiny_checkpoint("qwen3"))
        assert opened(web.url).architecture == "Qwen3ForCausalLM"
        assert len(list(cache.iterdir())) == 1

    def test_a_server_without_ranges_begins_anew(self, web: Web, folder: Path) -> None:
        web.ranged, web.breaks = False, 2  # the first answer is only looked at
        refused(web.url)
        assert is_the_same(opened(web.url), folder)

    def test_a_server_without_versions_is_asked_each_time(self, web: Web, folder: Path) -> None:
        web.tagged = False
        assert is_the_same(opened(web.url), folder)
        sent = web.sent
        assert is_the_same(opened(web.url), folder)
        assert web.sent - sent == len(web.content) + 1

    def test_an_expired_signature(self, web: Web, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        web.status = 403
        error = refused(web.url)
        assert error.message == f"{web.url.partition('?')[0]}: the server answered HTTP 403"
        assert "expired" in (error.hint or "")
        web.status = None
        opened(web.url)
        web.status = 403
        assert is_the_same(opened(web.url), folder)
        assert "HTTP 403; the copy in" in " ".join(capsys.readouterr().err.split())

    def test_nobody_answers(self) -> None:
        assert refused("http://127.0.0.1:9/model.tar").message.startswith(
            "http://127.0.0.1:9/model.tar: the connection failed"
        )

    def test_a_gguf(self, web: Web, folder: Path, tmp_path: Path) -> None:
        web.content = write_gguf(tmp_path / "tiny.gguf", folder).read_bytes()
        assert isinstance(opened(web.url), GgufCheckpoint)

    def test_a_page(self, web: Web) -> None:
        web.content = b"<!doctype html>"
        assert "neither a tar archive nor a .gguf file" in str(refused(web.url))

    @pytest.mark.parametrize("keep", [0.5, 0.95])
    def test_a_damaged_archive(self, web: Web, keep: float) -> None:
        web.content = web.content[: int(len(web.content) * keep)]
        assert "is a damaged archive" in str(refused(web.url))

    def test_an_archive_of_something_else(self, web: Web, tmp_path: Path) -> None:
        (tmp_path / "else").mkdir()
        (tmp_path / "else" / "readme.txt").write_text("hello")
        web.content = packed(tmp_path / "else")
        assert "holds no config.json" in str(refused(web.url))

    def test_an_archive_writes_nowhere_else(self, web: Web, folder: Path, cache: Path) -> None:
        evil = {"../../../evil.json": b"{}", "/tmp/evil.json": b"{}", "model/original/config.json": b"{}"}
        web.content = packed(folder, **evil)
        assert is_the_same(opened(web.url), folder)
        assert not list(cache.parent.parent.rglob("*evil*"))
        assert not Path("/tmp/evil.json").exists()

    def test_two_at_once(self, web: Web, cache: Path) -> None:
        opened(web.url)
        (kept,) = cache.iterdir()
        handle = os.open(kept, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            assert "another process is downloading" in str(refused(web.url))
        finally:
            os.close(handle)


class TestBucket:
    @pytest.fixture(params=["gs", "s3"])
    def scheme(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        class Bucket(MemoryFileSystem):
            protocol = request.param
            cachable = False
            store: ClassVar[dict[str, Any]] = {}
            pseudo_dirs: ClassVar[list[str]] = [""]

            @classmethod
            def _strip_protocol(cls, path: str) -> str:
                return str(super()._strip_protocol(path.replace(f"{request.param}://", "memory://")))

        monkeypatch.setitem(import_module("fsspec.registry")._registry, request.param, Bucket)
        return str(request.param)

    @pytest.fixture
    def source(self, scheme: str, folder: Path) -> str:
        put(scheme, "bucket/models/tiny", folder)
        return f"{scheme}://bucket/models/tiny"

    def test_a_folder(self, source: str, scheme: str, folder: Path, cache: Path) -> None:
        system = fsspec.filesystem(scheme)
        for name in ("consolidated.safetensors", "model.bin", "original/model.safetensors"):
            system.pipe(f"bucket/models/tiny/{name}", b"not this")
        checkpoint = opened(f"{source}/")
        assert is_the_same(checkpoint, folder)
        assert checkpoint.source == f"{source}/"
        kept = {path.name for path in cache.glob("*/files/*")}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= kept
        assert not {"consolidated.safetensors", "model.bin"} & kept

    def test_an_adapter(self, scheme: str, folder: Path, tmp_path: Path) -> None:
        adapter = make_adapter(folder, tmp_path / "adapter")
        put(scheme, "bucket/adapters/poet", adapter)
        fetched = open_adapter("poet", f"{scheme}://bucket/adapters/poet", Path()).folder
        assert [(fetched / name).read_bytes() for name in FILES] == [(adapter / name).read_bytes() for name in FILES]

    def test_it_is_fetched_once(self, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened(source)
        monkeypatch.setattr(MemoryFileSystem, "_open", None)
        assert is_the_same(opened(source), folder)

    def test_a_file_that_broke_off_goes_on(
        self, source: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights, sought = folder / "model.safetensors", list[int]()

        class Half(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell():
                    raise OSError("reset by peer")
                return super().read(len(self.getvalue()) // 2)

        class Seeking(io.BytesIO):
            def seek(self, offset: int, whence: int = 0, /) -> int:
                sought.append(offset)
                return super().seek(offset, whence)

        def opening(kind: type[io.BytesIO]) -> Callable[..., io.BytesIO]:
            def open_(self: MemoryFileSystem, path: str, *args: object, **kwargs: object) -> io.BytesIO:
                return (kind if path.endswith(weights.name) else io.BytesIO)(self.store[path].getvalue())

            return open_

        monkeypatch.setattr(MemoryFileSystem, "_open", opening(Half))
        assert "reset by peer" in str(refused(source))
        half = weights.stat().st_size // 2
        assert [path.stat().st_size for path in cache.glob("*/partial/*.safetensors")] == [half]
        monkeypatch.setattr(MemoryFileSystem, "_open", opening(Seeking))
        assert is_the_same(opened(source), folder)
        assert sought == [half]

    def test_one_gguf(self, scheme: str, folder: Path, tmp_path: Path) -> None:
        write_gguf(tmp_path / "tiny.gguf", folder)
        put(scheme, "bucket/ggufs", tmp_path / "tiny.gguf")
        for source in (f"{scheme}://bucket/ggufs/tiny.gguf", f"{scheme}://bucket/ggufs"):
            assert isinstance(opened(source), GgufCheckpoint)

    def test_an_unsupported_model_costs_its_config_only(self, source: str, scheme: str, cache: Path) -> None:
        config = json.dumps({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}).encode()
        fsspec.filesystem(scheme).pipe("bucket/models/tiny/config.json", config)
        assert "Mamba" in str(refused(source))
        assert [path.name for path in cache.rglob("partial/*.json")] == ["config.json"]

    def test_nothing_there(self, scheme: str) -> None:
        assert refused(f"{scheme}://bucket/nothing").message == f"{scheme}://bucket/nothing does not exist"

    def test_no_checkpoint_there(self, scheme: str, tmp_path: Path) -> None:
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "a.txt").write_text("hello")
        put(scheme, "bucket/notes", tmp_path / "notes")
        assert "holds no config.json" in str(refused(f"{scheme}://bucket/notes"))

    def test_no_login(self, source: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def ls(*args: object, **kwargs: object) -> None:
            raise PermissionError("Forbidden")

        monkeypatch.setattr(MemoryFileSystem, "ls", ls)
        error = refused(source)
        assert error.message == f"{source}: Forbidden"
        assert {"gs": "gcloud auth", "s3": "aws configure"}[scheme] in (error.hint or "")


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_the_extra_that_buckets_need_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    error = refused(f"{scheme}://bucket/model")
    assert error.hint == "Install it with: pip install 'trtpack[cloud]'"


def put(scheme: str, path: str, source: Path) -> None:
    system = fsspec.filesystem(scheme)
    for file in source.iterdir() if source.is_dir() else [source]:
        system.pipe(f"{path}/{file.name}", file.read_bytes())
