"""Pulling engines from a stand-in: which one, whole or not at all, once, and what is said of what is wrong."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.engine.device import Device
from runtime.errors import RegistryError
from runtime.registry import oci
from runtime.registry.pull import Pulled, pull
from runtime.registry.reference import Reference
from tests.runtime.registry.engines import FILES, digest, put_engine
from tests.runtime.registry.registry_stand_in import Web, registry

L4 = Device("NVIDIA L4", "8.9", 24 * 10**9, "580.1")
T4 = Device("Tesla T4", "7.5", 16 * 10**9, "580.1")
H100 = Device("NVIDIA H100 80GB HBM3", "9.0", 80 * 10**9, "580.1")
TWO = {"nvidia-l4": "8.9", "nvidia-tesla-t4": "7.5"}
WEIGHTS = "weights/model-00001.safetensors"


def named(web: Web, name: str = "x:1") -> Reference:
    return Reference.parse(f"oci://{web.address}/{name}")


def gpu_of(pulled: Pulled) -> str:
    return str(json.loads((pulled.folder / "engine.json").read_bytes())["gpu"])


@pytest.mark.parametrize(
    ("device", "gpu", "expected"),
    [
        (L4, None, "nvidia-l4"),
        (T4, None, "nvidia-tesla-t4"),
        (None, "nvidia-tesla-t4", "nvidia-tesla-t4"),
        (T4, "nvidia-l4", "nvidia-l4"),
        (Device("NVIDIA L40S", "8.9", 0, ""), None, "nvidia-l4"),  # its plans run on the whole generation
        (Device("NVIDIA L40S", "8.9", 0, ""), "nvidia-l40s", "nvidia-l4"),
    ],
)
def test_the_engine_for_the_gpu_is_taken(web: Web, device: Device | None, gpu: str | None, expected: str) -> None:
    put_engine(web, TWO)
    pulled = pull(named(web), device, gpu)
    assert gpu_of(pulled) == expected
    assert (pulled.folder / "plans" / "middle.plan").read_text() == f"plan for {expected}"
    assert {name: (pulled.folder / name).read_bytes() for name in FILES} == FILES
    assert Reference.parse(pulled.reference).digest in web.manifests


def test_of_one_capability_the_product_decides(web: Web) -> None:
    put_engine(web, {"nvidia-l4": "8.9"}, tag="a", **{"trtpack.gpu-product": "NVIDIA L4"})
    put_engine(web, {"nvidia-l40s": "8.9"}, tag="b", **{"trtpack.gpu-product": "NVIDIA L40S"})
    both = [json.loads(web.manifests[tag][1])["manifests"][0] for tag in "ab"]
    for order in (both, both[::-1]):
        index = json.loads(web.manifests["a"][1]) | {"manifests": order}
        web.manifests["1"] = (oci.INDEX, json.dumps(index).encode())
        assert gpu_of(pull(named(web), L4)) == "nvidia-l4"


def test_an_engine_for_any_gpu_is_second_to_one_for_this(web: Web) -> None:
    put_engine(web, {"": "", "nvidia-l4": "8.9"})
    assert [gpu_of(pull(named(web), device)) for device in (L4, H100)] == ["nvidia-l4", ""]


def test_pytorch_modules_run_on_a_gpu_that_they_were_not_compiled_for(web: Web) -> None:
    put_engine(web, {"nvidia-l4": "8.9"}, **{"trtpack.backend": "torch 2.13.0"})
    assert gpu_of(pull(named(web), H100)) == "nvidia-l4"


def test_no_engine_for_the_gpu(web: Web) -> None:
    put_engine(web, TWO)
    with pytest.raises(RegistryError) as error:
        pull(named(web), H100)
    assert str(error.value) == (
        f"{named(web)} has engines for nvidia-l4 (8.9), nvidia-tesla-t4 (7.5), and none for NVIDIA H100 80GB HBM3 "
        "(9.0): compile one with trtpack compile --gpu NAME, and push it to the same tag"
    )


def test_what_a_cpu_alone_reads_is_left_out_for_a_gpu(web: Web) -> None:
    put_engine(web, TWO, optional=(WEIGHTS,))
    assert not (pull(named(web), L4).folder / WEIGHTS).exists()
    assert digest(FILES[WEIGHTS]) not in web.sent
    assert (pull(named(web), None).folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_pulled_again_it_costs_nothing(web: Web) -> None:
    put_engine(web, TWO)
    first = pull(named(web), L4)
    asked = len(web.asked)
    again = pull(named(web), L4)
    assert (again, [method for method, _ in web.asked[asked:]]) == (first, ["GET", "GET"])
    assert all("/manifests/" in path for _, path in web.asked[asked:])
    # Another GPU's engine has the same weights.
    pull(named(web), T4)
    assert web.sent[digest(FILES[WEIGHTS])] == len(FILES[WEIGHTS])


def test_a_digest_that_was_pulled_is_not_asked_for(web: Web) -> None:
    put_engine(web, TWO)
    pinned = named(web, f"x@{digest(web.manifests['1'][1])}")
    first = pull(pinned, L4)
    asked = len(web.asked)
    assert (pull(pinned, L4), len(web.asked)) == (first, asked)


def test_without_the_registry_what_the_tag_was_is_taken(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    put_engine(web, TWO)
    first = pull(named(web), L4)
    web.busy = [(503, "0")] * 9
    assert pull(named(web), L4) == first
    assert "answered HTTP 503" in caplog.text
    assert f"Going on with {first.reference}" in caplog.text
    web.busy = [(503, "0")] * 9
    with pytest.raises(RegistryError, match="HTTP 503"):
        pull(named(web), T4)  # never pulled for this one


def test_what_was_thrown_out_of_the_cache_is_not_taken(web: Web) -> None:
    put_engine(web, TWO)
    (pull(named(web), L4).folder / "engine.json").unlink()
    web.busy = [(503, "0")] * 9
    with pytest.raises(RegistryError, match="HTTP 503"):
        pull(named(web), L4)


def test_other_files_with_the_same_engine_json_are_another_engine(web: Web) -> None:
    """Those of a draft model are in an engine.json of its own."""
    put_engine(web, {"nvidia-l4": "8.9"}, files={"draft/engine.json": b"1"})
    first = pull(named(web), L4).folder
    put_engine(web, {"nvidia-l4": "8.9"}, files={"draft/engine.json": b"2"})
    assert (pull(named(web), L4).folder / "draft" / "engine.json").read_bytes() == b"2"
    assert (first / "draft" / "engine.json").read_bytes() == b"1"


def test_a_file_in_pieces_is_one_file_again(web: Web) -> None:
    put_engine(web, TWO, pieces=999)
    assert (pull(named(web), L4).folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("pieces", [None, 3000])
def test_a_cut_connection_goes_on_where_it_was(web: Web, ranges: bool, pieces: int | None) -> None:
    put_engine(web, {"nvidia-l4": "8.9"}, pieces=pieces)
    web.cut, web.ranges = 3, ranges
    told: list[int] = []
    folder = pull(named(web), L4, progress=lambda total: told.append).folder
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    size = sum(map(len, FILES.values())) + len("plan for nvidia-l4")
    assert sum(told) == size
    if ranges:
        assert sum(web.sent[blob] for blob in web.blobs) == size + len('{"gpu": "nvidia-l4"}')


def test_another_process_goes_on_where_it_was(web: Web, cache: Path) -> None:
    """The first one dies with half of the weights on the disk."""
    put_engine(web, {"nvidia-l4": "8.9"}, pieces=3000)
    partial = cache / "blobs" / f"{digest(FILES[WEIGHTS]).replace(':', '-')}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(FILES[WEIGHTS][:4000])
    assert (pull(named(web), L4).folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert digest(FILES[WEIGHTS][:3000]) not in web.sent
    assert web.sent[digest(FILES[WEIGHTS][3000:6000])] == 2000


def test_without_ranges_what_is_here_is_skipped(web: Web, cache: Path) -> None:
    web.ranges = False
    put_engine(web, {"nvidia-l4": "8.9"})
    partial = cache / "blobs" / f"{digest(FILES[WEIGHTS]).replace(':', '-')}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(FILES[WEIGHTS][:4000])
    assert (pull(named(web), L4).folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert web.count("GET", digest(FILES[WEIGHTS])) == 1


@pytest.mark.parametrize("left", [b"X" * 4000, b"X" * 10**5])
def test_what_another_process_left_damaged_is_pulled_anew(web: Web, cache: Path, left: bytes) -> None:
    put_engine(web, {"nvidia-l4": "8.9"})
    partial = cache / "blobs" / f"{digest(FILES[WEIGHTS]).replace(':', '-')}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    assert (pull(named(web), L4).folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, "what should be "),
        (lambda content: content + b"more", "has more bytes than told"),
        (lambda content: content[:1000], "a blob ends before it should"),
    ],
)
@pytest.mark.parametrize("cut", [0, 1])
def test_a_changed_blob_is_refused_and_not_kept(
    web: Web, cache: Path, change: Callable[[bytes], bytes], said: str, cut: int
) -> None:
    put_engine(web, {"nvidia-l4": "8.9"})
    name = digest(FILES[WEIGHTS])
    web.blobs[name], web.cut = change(FILES[WEIGHTS]), cut
    with pytest.raises(RegistryError, match=f"is damaged: .*{said}"):
        pull(named(web), L4)
    assert not list(cache.glob("engines/*/engine.json"))
    web.blobs[name] = FILES[WEIGHTS]
    assert (pull(named(web), L4).folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_changed_engine_json_is_refused(web: Web) -> None:
    put_engine(web, {"nvidia-l4": "8.9"})
    web.blobs[digest(b'{"gpu": "nvidia-l4"}')] = b'{"gpu": "nvidia-t4"}'
    with pytest.raises(RegistryError, match="damaged in the registry"):
        pull(named(web), L4)


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "", ".", "a\\b", "a\0b"])
def test_a_file_that_leads_out_of_the_folder_is_refused(web: Web, cache: Path, name: str) -> None:
    put_engine(web, {"nvidia-l4": "8.9"}, files={name: b"x"})
    with pytest.raises(RegistryError, match="which no engine has: it is not to be trusted"):
        pull(named(web), L4)
    assert not (cache / "engines").exists()


def test_a_file_under_another_file_is_refused(web: Web) -> None:
    put_engine(web, {"nvidia-l4": "8.9"}, files={"a": b"x", "a/b": b"y"})
    with pytest.raises(RegistryError, match="cannot write"):
        pull(named(web), L4)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_file_without_one_of_its_pieces_is_refused(web: Web, lost: int) -> None:
    put_engine(web, {"nvidia-l4": "8.9"}, pieces=3000)
    index = json.loads(web.manifests["1"][1])
    entry = index["manifests"][0]
    manifest = json.loads(web.manifests[entry["digest"]][1])
    del manifest["layers"][lost]
    content = json.dumps(manifest).encode()
    entry["digest"] = digest(content)
    web.manifests[digest(content)] = (oci.MANIFEST, content)
    web.manifests["1"] = (oci.INDEX, json.dumps(index).encode())
    with pytest.raises(RegistryError, match=f"does not hold all of {WEIGHTS}"):
        pull(named(web), L4)


DIGEST = digest(b"")
IMAGE: dict[str, Any] = {
    "schemaVersion": 2,
    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 0},
    "layers": [],
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "is neither an image manifest nor an index: Invalid JSON"),
        (b"[]", "is neither an image manifest nor an index"),
        (b'{"manifests": 1}', "is neither an image manifest nor an index: manifests: Input should be"),
        (b'{"manifests": [{}], "artifactType": "application/vnd.trtpack.engine.v1"}', "is not an image index: "),
        (json.dumps(IMAGE).encode(), "is not an engine, but an image or something else: name the tag that trtpack"),
        (b'{"schemaVersion": 2, "manifests": []}', "is not an engine, but an image or something else"),
        (b"{}", "is not an engine, but an image or something else"),
    ],
)
def test_a_tag_that_is_no_engine(web: Web, content: bytes, said: str) -> None:
    web.manifests["1"] = (oci.INDEX, content)
    with pytest.raises(RegistryError) as error:
        pull(named(web), None)
    assert str(error.value).startswith(f"{named(web)} {said}")
    assert "\n" not in str(error.value)


def test_a_tag_that_is_not_there(web: Web) -> None:
    with pytest.raises(RegistryError, match=r"x:2 is not in the registry: check its name and tag"):
        pull(named(web, "x:2"), None)


def test_a_manifest_that_is_not_there(web: Web) -> None:
    put_engine(web, {"nvidia-l4": "8.9"})
    index = web.manifests["1"]
    web.manifests = {"1": index}
    with pytest.raises(RegistryError, match="which is not in the registry: push the engine again"):
        pull(named(web), None)


def test_nobody_answers() -> None:
    with registry() as web:
        pass
    with pytest.raises(RegistryError, match=f"the connection to {web.address} failed"):
        pull(named(web), None)


def test_a_cache_that_cannot_be_written(web: Web, tmp_path: Path) -> None:
    put_engine(web, {"nvidia-l4": "8.9"})
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match=r"cannot write .*; set TRTPACK_CACHE_DIR to a folder that can be"):
        pull(named(web), L4, cache=tmp_path / "file")


def test_a_user_without_a_home_is_told_what_to_set(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("TRTPACK_CACHE_DIR")
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(RegistryError, match="set TRTPACK_CACHE_DIR to a folder"):
        pull(named(web), L4)


def test_where_the_disk_has_no_links_files_are_copied(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    put_engine(web, {"nvidia-l4": "8.9"})
    assert (pull(named(web), L4).folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_two_that_want_the_same_pull_it_once(web: Web) -> None:
    put_engine(web, {"nvidia-l4": "8.9"})
    found: list[Pulled] = []
    threads = [threading.Thread(target=lambda: found.append(pull(named(web), L4))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert web.sent[digest(FILES[WEIGHTS])] == len(FILES[WEIGHTS])
