"""Engines pushed to a stand-in for the Hugging Face Hub on loopback (tests/hub_stand_in.py), never to the real one."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from packager.errors import TrtpackError
from packager.registry import card
from packager.registry import hub as pushing
from runtime.engine import manifest, plan
from runtime.engine.manifest import Manifest, Model
from runtime.errors import EngineError
from runtime.registry.oci import digest_of
from tests.hub_stand_in import Hub, serving
from tests.plans import CONFIG, make_engine, record

REPO = "org/engines"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's retries
        yield hub


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine for a T4 and an L4."""
    folder = tmp_path_factory.mktemp("both")
    model = Model(architecture="LlamaForCausalLM", source="hf://org/tiny", revision="abc", config=CONFIG)
    make_engine(folder, "7.5", "8.9", model=model)
    return folder


def one(both: Path, index: int, out: Path) -> Path:
    """The engine of `both` for one of its GPUs, in a folder of its own."""
    found = manifest.read(both)
    alone = plan.variant(found, found.targets[index])
    for name in alone.files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(both / name, out / name)
    (out / manifest.FILE_NAME).write_text(alone.dump())
    return out


def push(engine: Path, **options: bool) -> str:
    return pushing.push(engine, REPO, **options)


def held(hub: Hub, folder: str) -> Manifest:
    """The engine.json there, once every file that it lists is there as it says."""
    found = Manifest.model_validate_json(hub.content(REPO, f"{folder}/engine.json"))
    for name, file in found.files.items():
        assert digest_of(hub.content(REPO, f"{folder}/{name}")) == f"sha256:{file.sha256}"
    return found


def test_one_commit_private_a_folder_for_each_gpu(hub: Hub, both: Path) -> None:
    reference = push(both)
    repository = hub.repositories[REPO]
    assert repository.private
    assert len(repository.commits) == 2, "the empty one of a new repository, and ours"
    assert reference == f"hf://{REPO}@{repository.head}"
    for folder, capability in (("nvidia-tesla-t4", "7.5"), ("nvidia-l4", "8.9")):
        assert [target.compute_capability for target in held(hub, folder).targets] == [capability]
    index = json.loads(hub.content(REPO, "index.json"))
    assert {entry["annotations"]["trtpack.gpu-product"] for entry in index["manifests"]} == {"NVIDIA L4", "Tesla T4"}


def test_weights_of_several_gpus_are_sent_and_stored_once(hub: Hub, both: Path) -> None:
    push(both)
    weights = digest_of((both / "weights/model-00001.safetensors").read_bytes()).removeprefix("sha256:")
    assert hub.uploads.count(weights) == 1


def test_public_where_asked(hub: Hub, both: Path) -> None:
    push(both, private=False)
    assert not hub.repositories[REPO].private


def test_a_repository_s_visibility_stays_and_is_told(hub: Hub, both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(both, private=False)
    push(both)
    assert not hub.repositories[REPO].private
    assert f"hf://{REPO} is public already, and stays so" in capsys.readouterr().err


def test_another_gpu_joins_those_that_are_there(hub: Hub, both: Path, tmp_path: Path) -> None:
    push(one(both, 0, tmp_path / "t4"))
    sent = len(hub.uploads)
    push(one(both, 1, tmp_path / "l4"))
    assert len(hub.repositories[REPO].commits) == 3
    assert held(hub, "nvidia-tesla-t4").targets != held(hub, "nvidia-l4").targets
    plans = {file.sha256 for name, file in held(hub, "nvidia-l4").files.items() if name.endswith(".plan")}
    assert set(hub.uploads[sent:]) <= plans, "no weights again"
    page = hub.content(REPO, "README.md").decode()
    assert "| `nvidia-tesla-t4` | 7.5 |" in page
    assert "| `nvidia-l4` | 8.9 |" in page


def test_the_same_again_is_no_commit(hub: Hub, both: Path) -> None:
    first = push(both)
    assert push(both) == first
    assert len(hub.repositories[REPO].commits) == 2


def test_an_engine_compiled_again_leaves_nothing_of_the_former(hub: Hub, both: Path, tmp_path: Path) -> None:
    engine = one(both, 0, tmp_path / "t4")
    push(engine)
    (engine / "tokenizer/tokenizer.json").rename(engine / "tokenizer/other.json")
    record(engine, manifest.read(engine))
    push(engine)
    assert "nvidia-tesla-t4/tokenizer/tokenizer.json" not in hub.repositories[REPO].commits[-1]
    assert "tokenizer/other.json" in held(hub, "nvidia-tesla-t4").files


def test_the_card_says_what_it_is(hub: Hub, both: Path) -> None:
    push(both)
    page = hub.content(REPO, "README.md").decode()
    metadata = yaml.safe_load(page.split("---")[1])
    assert metadata["base_model"] == "org/tiny"
    assert metadata["library_name"] == "trtpack"
    assert {"nvidia-l4", "nvidia-tesla-t4", "tensorrt-rtx"} <= set(metadata["tags"])
    assert f"trtpack pull hf://{REPO} --gpu" in page
    for name, file in held(hub, "nvidia-l4").files.items():
        assert f"| `{name}` | {file.size} | `{file.sha256}` |" in page


def test_a_card_of_somebody_s_own_stays(hub: Hub, both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(both)
    files = hub.repositories[REPO].commits[-1]
    assert card.MARKER.encode() in files["README.md"]
    files["README.md"] = b"# Mine"
    push(both)
    assert hub.content(REPO, "README.md") == b"# Mine"
    assert "stays as it is" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["objects/batch", "/commit/main"])
def test_a_push_that_breaks_off_changes_nothing_and_the_next_goes_on(
    end: str, hub: Hub, both: Path, tmp_path: Path
) -> None:
    push(one(both, 0, tmp_path / "t4"))
    before = dict(hub.repositories[REPO].commits[-1])
    hub.refuse[end] = 500
    with pytest.raises(TrtpackError, match="HTTP 500"):
        push(one(both, 1, tmp_path / "l4"))
    assert hub.repositories[REPO].commits[-1] == before
    hub.refuse.clear()
    sent = list(hub.uploads)
    push(tmp_path / "l4")
    assert not set(hub.uploads[len(sent) :]) & set(sent)
    held(hub, "nvidia-l4")


def test_an_upload_that_fails_is_told(hub: Hub, both: Path) -> None:
    weights = digest_of((both / "weights/model-00001.safetensors").read_bytes()).removeprefix("sha256:")
    hub.refuse[weights] = 403
    with pytest.raises(TrtpackError, match=f"hf://{REPO}: the upload broke off") as caught:
        push(both)
    assert "Push again" in str(caught.value.hint)
    assert len(hub.repositories[REPO].commits) == 1


def test_somebody_else_s_push_meanwhile_is_not_overwritten(
    hub: Hub, both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*arguments: object) -> str:
        hub.repositories[REPO].commits.append({"theirs": b""})
        return page(*arguments)

    page = card.render
    monkeypatch.setattr(card, "render", other)
    with pytest.raises(TrtpackError, match="somebody else has pushed"):
        push(both)
    assert hub.repositories[REPO].commits[-1] == {"theirs": b""}


def test_an_engine_of_another_model_is_refused(hub: Hub, both: Path, tmp_path: Path) -> None:
    push(one(both, 0, tmp_path / "t4"))
    other = one(both, 1, tmp_path / "l4")
    found = manifest.read(other)
    record(other, found.model_copy(update={"model": found.model.model_copy(update={"revision": "def"})}))
    message = f"hf://{REPO} holds an engine of hf://org/tiny at abc for nvidia-tesla-t4, and this one is of"
    with pytest.raises(TrtpackError, match=re.escape(message)):
        push(other)


def test_a_refused_token_is_told(hub: Hub, both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(TrtpackError) as caught:
        push(both)
    assert "HF_TOKEN" in str(caught.value.hint)
    assert not hub.repositories


def test_no_network_is_told(hub: Hub, both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TrtpackError, match=r"http://127\.0\.0\.1:9"):
        push(both)


def test_a_damaged_engine_is_not_pushed(hub: Hub, both: Path, tmp_path: Path) -> None:
    engine = one(both, 0, tmp_path / "t4")
    (engine / "weights/model-00001.safetensors").write_bytes(bytes(4096))
    with pytest.raises(EngineError, match="sha256"):
        push(engine)
    assert not hub.repositories


@pytest.mark.parametrize("repo", ["engines", "hf://", "hf://org/engines/nvidia-l4"])
def test_a_malformed_name_is_told(repo: str, hub: Hub, both: Path) -> None:
    with pytest.raises(TrtpackError, match="names no repository of the Hub"):
        pushing.push(both, repo)
