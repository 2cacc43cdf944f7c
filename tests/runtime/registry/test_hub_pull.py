"""Engines pulled from a stand-in for the Hugging Face Hub on loopback (tests/hub_stand_in.py), never the real one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from packager.registry import hub as pushing
from runtime import phases
from runtime.engine import manifest
from runtime.engine.device import Device
from runtime.engine.manifest import File, Manifest, Speculation
from runtime.errors import RegistryError
from runtime.llm import LLM
from runtime.registry.hub import pull
from tests.conftest import TinyEngine
from tests.hub_stand_in import Hub, serving
from tests.plans import make_engine, write

REPO = "org/engines"
SOURCE = f"hf://{REPO}"
WEIGHTS = "weights/model-00001.safetensors"
CPU_ONLY = "weights/cpu.safetensors"
L4 = Device("NVIDIA L4", "8.9", 24 * 2**30, "580.1")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For a T4 and an L4, with weights that a CPU alone reads."""
    folder = tmp_path_factory.mktemp("engine")
    made = make_engine(folder, "7.5", "8.9")
    write(folder, CPU_ONLY, b"for a CPU")
    optional = File(size=9, sha256=manifest.sha256(folder / CPU_ONLY), optional=True)
    made = made.model_copy(update={"files": {**made.files, CPU_ONLY: optional}})
    (folder / manifest.FILE_NAME).write_text(made.dump())
    return folder


@pytest.fixture
def hub(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """It holds the engine."""
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setenv("TRTPACK_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's retries
        pushing.push(engine, REPO)
        yield hub


def capability(folder: Path) -> str:
    """Of the engine's one GPU, once every file is found to be whole."""
    found = manifest.read(folder)
    manifest.verify(folder, found)
    (target,) = found.targets
    return target.compute_capability


def test_the_engine_of_this_gpu_is_chosen(hub: Hub) -> None:
    pulled = pull(SOURCE, L4)
    assert capability(pulled.folder) == "8.9"
    assert str(pulled.reference) == f"{SOURCE}@{hub.repositories[REPO].head}"
    assert not [name for name in hub.downloads if name.startswith("nvidia-tesla-t4/")]
    assert not (pulled.folder / CPU_ONLY).exists()


def test_the_engine_of_a_named_gpu_is_chosen(hub: Hub) -> None:
    assert capability(pull(SOURCE, None, "nvidia-tesla-t4").folder) == "7.5"


def test_a_cpu_has_all_of_one(hub: Hub) -> None:
    folder = pull(SOURCE, None).folder
    assert set(manifest.read(folder).files) == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } - {manifest.FILE_NAME}
    assert (folder / CPU_ONLY).read_bytes() == b"for a CPU"


def test_a_draft_model_s_engine_comes_along(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "drafted"
    make_engine(folder, "7.5", "8.9", speculation=Speculation(method="draft_model"))
    make_engine(folder / "draft", "7.5", "8.9")
    source = pushing.push(folder, "org/drafted")
    pulled = pull(source, L4)
    assert str(pulled.reference) == source
    assert capability(pulled.folder) == capability(pulled.folder / "draft") == "8.9"
    weights = hub.repositories["org/drafted"].commits[-1][f"nvidia-l4/draft/{WEIGHTS}"]
    assert isinstance(weights, str)
    hub.large[weights] = bytes(len(hub.large[weights]))
    with pytest.raises(RegistryError, match=f"draft/{WEIGHTS} is not what was pushed"):
        pull(source, L4, cache=tmp_path / "another")


@pytest.mark.slow
def test_an_engine_is_pulled_and_loaded_by_its_name(
    hub: Hub, tiny_engine: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "seconds", {})
    engine = tiny_engine()
    source = pushing.push(engine, "org/tiny")
    llm = LLM(source, device="cpu")
    try:
        assert llm.healthy
    finally:
        llm.close()
    assert list(phases.seconds)[:2] == ["pull", "check"]
    folder = pull("hf://org/tiny", L4).folder
    assert folder.name == "any-gpu"
    assert manifest.read(folder) == manifest.read(engine)


def test_it_lies_in_our_cache(hub: Hub, tmp_path: Path) -> None:
    assert pull(SOURCE, L4).folder.is_relative_to(tmp_path / "cache" / "hub")


def test_no_engine_for_this_gpu_is_told(hub: Hub) -> None:
    with pytest.raises(RegistryError) as caught:
        pull(SOURCE, Device("NVIDIA H100 80GB HBM3", "9.0", 80 * 2**30, "580.1"))
    for part in (SOURCE, "nvidia-l4 (8.9)", "nvidia-tesla-t4 (7.5)", "NVIDIA H100 80GB HBM3 (9.0)"):
        assert part in str(caught.value)


def test_the_bytes_are_counted(hub: Hub, engine: Path) -> None:
    totals, counts = [], []

    def progress(total: int):
        totals.append(total)
        return counts.append

    folder = pull(SOURCE, L4, progress=progress).folder
    listed = sum(file.size for file in manifest.read(folder).files.values() if not file.optional)
    assert totals == [sum(counts)] == [listed]
    pull(SOURCE, L4, progress=progress)
    assert len(totals) == 1  # nothing to download, nothing to tell


def test_a_second_time_nothing_is_downloaded(hub: Hub) -> None:
    first = pull(SOURCE, L4)
    hub.downloads.clear()
    assert pull(SOURCE, L4) == first
    assert not hub.downloads


def test_a_second_gpu_brings_no_weights_again(hub: Hub) -> None:
    pull(SOURCE, L4)
    hub.downloads.clear()
    assert capability(pull(SOURCE, None, "nvidia-tesla-t4").folder) == "7.5"
    assert hub.downloads
    assert f"nvidia-tesla-t4/{WEIGHTS}" not in hub.downloads


def test_the_cache_serves_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pull(SOURCE, L4)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert pull(SOURCE, L4) == first


def test_a_commit_can_be_named(hub: Hub, engine: Path) -> None:
    first = hub.repositories[REPO].head
    hub.repositories[REPO].commits.append({})
    assert capability(pull(f"{SOURCE}@{first}", L4).folder) == "8.9"
    with pytest.raises(RegistryError, match="holds no engine"):
        pull(SOURCE, L4)
    with pytest.raises(RegistryError, match="no such revision"):
        pull(f"{SOURCE}@{'0' * 40}", L4)


def test_a_damaged_file_is_refused_and_not_kept(hub: Hub) -> None:
    sha256 = hub.repositories[REPO].commits[-1][f"nvidia-l4/{WEIGHTS}"]
    assert isinstance(sha256, str)
    whole = hub.large[sha256]
    hub.large[sha256] = whole[:7] + bytes([whole[7] ^ 1]) + whole[8:]
    with pytest.raises(RegistryError, match=f"{SOURCE}@.* is damaged: nvidia-l4/{WEIGHTS} is not what was pushed"):
        pull(SOURCE, L4)
    hub.large[sha256] = whole
    assert capability(pull(SOURCE, L4).folder) == "8.9"


def test_an_engine_json_that_was_changed_is_refused(hub: Hub) -> None:
    files = hub.repositories[REPO].commits[-1]
    text = hub.content(REPO, "nvidia-l4/engine.json").decode()
    changed = Manifest.model_validate_json(text).model_copy(update={"files": {}})
    files["nvidia-l4/engine.json"] = changed.dump().encode()
    with pytest.raises(RegistryError, match=r"nvidia-l4/engine\.json is not what was pushed"):
        pull(SOURCE, L4)


@pytest.mark.parametrize("gpu", ["../../../etc", "/etc", "..", "a/b", ""])
def test_a_folder_outside_of_the_repository_is_refused(gpu: str, hub: Hub) -> None:
    files = hub.repositories[REPO].commits[-1]
    index = json.loads(hub.content(REPO, "index.json"))
    for entry in index["manifests"]:
        entry["annotations"]["trtpack.gpu"] = gpu
    files["index.json"] = json.dumps(index).encode()
    with pytest.raises(RegistryError):
        pull(SOURCE, L4)


@pytest.mark.parametrize("content", [b"not json", b"[]", b'{"manifests": []}', b'{"artifactType": "of/another"}'])
def test_a_repository_of_something_else_is_told(content: bytes, hub: Hub) -> None:
    hub.repositories[REPO].commits[-1]["index.json"] = content
    with pytest.raises(RegistryError, match=f"{SOURCE} holds no engine"):
        pull(SOURCE, L4)


def test_a_refused_token_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(RegistryError, match=f"{SOURCE} is not on {hub.url}, or is private: .*HF_TOKEN"):
        pull(SOURCE, L4)


def test_no_network_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match=r"cannot reach http://127\.0\.0\.1:9"):
        pull(SOURCE, L4)


def test_a_cache_that_cannot_be_written_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRTPACK_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(RegistryError, match="cannot write"):
        pull(SOURCE, L4)


def test_a_malformed_name_is_told() -> None:
    with pytest.raises(RegistryError, match="hf://ORG/NAME"):
        pull("hf://engines", L4)
