"""Pushing engines to a stand-in: what is written, in which order, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from k8s.gpus import find
from packager.errors import ConfigError, TrtpackError
from packager.registry.engine import push, read
from runtime.engine import manifest as manifests
from runtime.engine.manifest import DRAFT_FOLDER, Model, Speculation
from runtime.errors import EngineError, RegistryError
from runtime.registry import artifact, oci
from runtime.registry.pull import pull
from runtime.registry.reference import Reference
from tests.engines import rewrite
from tests.packager.registry.conftest import MakeEngine
from tests.plans import CONFIG
from tests.runtime.registry.registry_stand_in import Web


def tag(web: Web, name: str = "1") -> Reference:
    return Reference(web.address, "x", name)


def index(web: Web, name: str = "1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(web.manifests[name][1])
    return found


def entries(web: Web, name: str = "1") -> dict[str, dict[str, Any]]:
    """By GPU."""
    return {entry["annotations"].get("trtpack.gpu", ""): entry for entry in index(web, name)["manifests"]}


def manifest(web: Web, gpu: str, name: str = "1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(web.manifests[entries(web, name)[gpu]["digest"]][1])
    return found


def writes(web: Web) -> list[str]:
    return [path for method, path in web.asked if method in ("POST", "PUT")]


def test_what_an_engine_is_in_a_registry(web: Web, make: MakeEngine, weights: bytes) -> None:
    engine = make("8.9")
    pushed = push(engine, tag(web))
    assert pushed.reference.digest == oci.digest_of(web.manifests["1"][1])
    assert index(web)["artifactType"] == artifact.ARTIFACT
    assert entries(web)["nvidia-l4"]["annotations"] == {
        "trtpack.gpu": "nvidia-l4",
        "trtpack.gpu-product": "NVIDIA L4",
        "trtpack.compute-capability": "8.9",
        "trtpack.backend": "tensorrt 11.4.1.5",
        "trtpack.model": "hf://org/[tiny]",
        "trtpack.revision": "abc",
        "trtpack.architecture": "LlamaForCausalLM",
        "trtpack.dtype": "float16",
        "trtpack.max-model-len": "512",
        "trtpack.max-batch-size": "4",
        "trtpack.max-num-tokens": "64",
    }
    written = manifest(web, "nvidia-l4")
    assert web.blobs[written["config"]["digest"]] == (engine / "engine.json").read_bytes()
    layers = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in written["layers"]}
    assert layers.keys() == manifests.read(engine).files.keys()
    assert {name: web.blobs[layer["digest"]] for name, layer in layers.items()} == {
        name: (engine / name).read_bytes() for name in layers
    }
    assert layers["weights/model-00001.safetensors"] == {
        "mediaType": "application/vnd.trtpack.engine.weights.v1+safetensors",
        "digest": oci.digest_of(weights),
        "size": len(weights),
        "annotations": {"org.opencontainers.image.title": "weights/model-00001.safetensors"},
    }
    assert {layer["mediaType"] for name, layer in layers.items() if name.startswith("plans/")} == {artifact.PLAN}


def test_the_tag_is_written_last_and_what_it_names_before(web: Web, make: MakeEngine) -> None:
    push(make("8.9"), tag(web))
    paths = writes(web)
    assert paths[-1].endswith("/manifests/1")
    assert paths[-2].endswith(f"/manifests/{oci.digest_of(web.manifests['1'][1])}")
    assert paths[-3].endswith(f"/manifests/{entries(web)['nvidia-l4']['digest']}")
    assert all("/blobs/" in path for path in paths[:-3])


def test_pushed_twice_it_is_the_same_and_nothing_is_written(web: Web, make: MakeEngine) -> None:
    engine = make("8.9", "9.0")
    first = push(engine, tag(web))
    count = len(writes(web))
    again = push(engine, tag(web))
    assert (again.reference, again.sent, again.size) == (first.reference, 0, first.size)
    assert first.sent == first.size
    assert [path for path in writes(web)[count:] if "manifests/1" in path or "blobs" in path] == []


def test_one_engine_for_two_gpus_is_two_entries_each_with_its_own_plans(web: Web, make: MakeEngine) -> None:
    engine = make("8.9", "9.0")
    pushed = push(engine, tag(web))
    assert [[target.gpu for target in one.targets] for _, one in pushed.engines] == [
        ["nvidia-l4"],
        ["nvidia-h100-80gb"],
    ]
    for gpu, folder in ("nvidia-l4", "sm89"), ("nvidia-h100-80gb", "sm90"):
        folder_ = pull(tag(web), None, gpu).folder
        assert {path.parent.name for path in folder_.glob("plans/*/*")} == {folder}
        manifests.verify(folder_, manifests.read(folder_))


def test_another_gpu_joins_and_its_weights_are_not_sent(web: Web, make: MakeEngine, weights: bytes) -> None:
    push(make("8.9"), tag(web))
    kept = entries(web)["nvidia-l4"]
    pushed = push(make("9.0"), tag(web))
    assert entries(web).keys() == {"nvidia-l4", "nvidia-h100-80gb"}
    assert entries(web)["nvidia-l4"] == kept
    assert pushed.sent < pushed.size - len(weights) + 1
    assert web.count("PUT", oci.digest_of(weights).replace(":", "%3A")) == 1


def test_the_same_gpu_is_replaced(web: Web, make: MakeEngine) -> None:
    push(make("8.9", "9.0"), tag(web))
    before = entries(web)
    push(make("8.9", trtpack_version="0.2.0"), tag(web))
    assert entries(web).keys() == before.keys()
    assert entries(web)["nvidia-l4"]["digest"] != before["nvidia-l4"]["digest"]
    assert entries(web)["nvidia-h100-80gb"] == before["nvidia-h100-80gb"]


OTHER = Model(architecture="LlamaForCausalLM", source="hf://org/other", revision="def", config=CONFIG)


def test_another_model_is_refused_before_anything_is_sent(web: Web, make: MakeEngine) -> None:
    push(make("8.9"), tag(web))
    count = len(writes(web))
    with pytest.raises(TrtpackError) as error:
        push(make("9.0", model=OTHER), tag(web))
    assert error.value.message == (
        f"{tag(web)} has an engine of hf://org/[tiny] at abc, and this one is of hf://org/other at def"
    )
    assert error.value.hint and "--replace" in error.value.hint
    assert writes(web)[count:] == []
    push(make("9.0", model=OTHER), tag(web), replace=True)
    assert entries(web).keys() == {"nvidia-h100-80gb"}


def test_engine_json_is_read_without_the_engine(web: Web, make: MakeEngine, weights: bytes) -> None:
    push(make("8.9", "9.0"), tag(web))
    found = read(tag(web), find("L40S"))  # an L4's plans run on it
    assert [target.gpu for target in found.targets] == ["nvidia-l4"]
    assert web.sent[oci.digest_of(weights)] == 0
    with pytest.raises(RegistryError, match=r"and none for nvidia-tesla-t4"):
        read(tag(web), find("T4"))


def test_an_engine_json_of_another_version(web: Web, make: MakeEngine) -> None:
    pushed = push(make("8.9"), tag(web))
    written = manifest(web, "nvidia-l4")
    config = web.put(b'{"format_version": 99}')
    content = json.dumps(written | {"config": {**written["config"], "digest": config}}).encode()
    web.manifests["2"] = (oci.MANIFEST, content)
    with pytest.raises(RegistryError, match="was pushed by another version: format_version"):
        read(tag(web, "2"), None)
    assert read(pushed.reference, None) == pushed.engines[0][1]


@pytest.mark.parametrize("content", [b"{}", b"<html>", b'{"manifests": [], "schemaVersion": 2}'])
def test_a_tag_that_is_no_engine_is_kept(web: Web, make: MakeEngine, content: bytes) -> None:
    web.manifests["1"] = (oci.INDEX, content)
    with pytest.raises(TrtpackError, match="has an image or something else, and no engine"):
        push(make("8.9"), tag(web))
    assert web.manifests["1"][1] == content
    push(make("8.9"), tag(web), replace=True)
    assert entries(web).keys() == {"nvidia-l4"}


def test_of_two_pushes_at_the_same_time_both_are_there(
    web: Web, make: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one read the tag before we wrote it, and writes over it after."""
    push(make("9.0"), tag(web, "theirs"))

    def wait(seconds: float) -> None:
        if theirs := web.manifests.pop("theirs", None):
            web.manifests["1"] = theirs

    monkeypatch.setattr("packager.registry.engine.sleep", wait)
    pushed = push(make("8.9"), tag(web))
    assert entries(web).keys() == {"nvidia-l4", "nvidia-h100-80gb"}
    assert pushed.reference.digest == oci.digest_of(web.manifests["1"][1])


def test_a_tag_that_others_write_all_the_time(web: Web, make: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.registry.client import Registry

    monkeypatch.setattr(Registry, "manifest", lambda self, name: None)
    with pytest.raises(RegistryError, match="is written by somebody else all the time"):
        push(make("8.9"), tag(web))


def test_a_large_file_is_cut_and_is_whole_again(
    web: Web, make: MakeEngine, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "PIECE", 4096)
    engine = make("8.9")
    pushed = push(engine, tag(web))
    name = "weights/model-00001.safetensors"
    pieces = [
        layer
        for layer in manifest(web, "nvidia-l4")["layers"]
        if layer["annotations"]["org.opencontainers.image.title"] == name
    ]
    assert [piece["size"] for piece in pieces] == [4096, 4096, len(weights) - 8192]
    assert [piece["annotations"]["trtpack.file-offset"] for piece in pieces] == ["0", "4096", "8192"]
    assert {piece["annotations"]["trtpack.file-digest"] for piece in pieces} == {oci.digest_of(weights)}
    folder = pull(pushed.reference, None).folder
    manifests.verify(folder, manifests.read(folder))
    # One piece is lost on the way to a second repository: it alone is sent again.
    del web.blobs[pieces[1]["digest"]]
    assert push(engine, tag(web)).sent == 4096


def test_a_busy_registry_does_not_lose_a_push(web: Web, make: MakeEngine) -> None:
    web.busy, web.busy_path = [(503, "0")] * 3, "digest="
    push(make("8.9"), tag(web))
    folder = pull(tag(web), None).folder
    manifests.verify(folder, manifests.read(folder))


def test_an_engine_for_any_gpu(web: Web, make: MakeEngine) -> None:
    engine = make(backend="torch")
    push(engine, tag(web))
    assert entries(web).keys() == {""}
    assert "trtpack.compute-capability" not in entries(web)[""]["annotations"]
    assert manifests.read(pull(tag(web), None).folder) == manifests.read(engine)


def test_a_draft_goes_with_its_engine(web: Web, make: MakeEngine) -> None:
    draft = make("8.9", "9.0")
    draft = draft.rename(draft.with_name("draft"))
    engine = make("8.9", "9.0", speculation=Speculation(method="draft_model"))
    draft.rename(engine / DRAFT_FOLDER)
    push(engine, tag(web))
    folder = pull(tag(web), None, "nvidia-l4").folder
    for each in (folder, folder / DRAFT_FOLDER):
        found = manifests.read(each)
        assert [target.gpu for target in found.targets] == ["nvidia-l4"]
        manifests.verify(each, found)
    assert not (folder / DRAFT_FOLDER / "plans" / "sm90").exists()


def test_what_an_engine_can_do_without_may_be_missing(web: Web, make: MakeEngine) -> None:
    engine = make("8.9")
    found = manifests.read(engine)
    name = "weights/model-00001.safetensors"
    files = {**found.files, name: found.files[name].model_copy(update={"optional": True})}
    (engine / "engine.json").write_text(found.model_copy(update={"files": files}).dump())
    push(engine, tag(web))
    assert [blob.optional for blob in stored(web).values()].count(True) == 1
    (engine / name).unlink()
    push(engine, tag(web, "2"))
    assert name not in stored(web, "2")


def stored(web: Web, name: str = "1") -> dict[str, artifact.Stored]:
    written = oci.ImageManifest.model_validate(manifest(web, "nvidia-l4", name))
    return artifact.files(tag(web), written)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda path: path.write_bytes(bytes(path.stat().st_size)),
            r"model-00001\.safetensors has sha256 .* compile again",
        ),
        (lambda path: path.write_bytes(b""), r"model-00001\.safetensors has 0 bytes"),
        (lambda path: path.unlink(), r"model-00001\.safetensors is missing"),
        (lambda path: (path.parents[1] / "engine.json").unlink(), r"engine\.json does not exist"),
    ],
)
def test_a_damaged_engine_is_not_pushed(web: Web, make: MakeEngine, damage: Any, said: str) -> None:
    engine = make("8.9")
    damage(engine / "weights" / "model-00001.safetensors")
    with pytest.raises(EngineError, match=said):
        push(engine, tag(web))
    assert writes(web) == []


def test_a_digest_is_no_place_to_push_to(web: Web, make: MakeEngine) -> None:
    with pytest.raises(ConfigError, match="is no tag to push to"):
        push(make("8.9"), tag(web).at(f"sha256:{'0' * 64}"))


def test_a_registry_that_refuses(web: Web, make: MakeEngine) -> None:
    web.auth = "bearer"
    with pytest.raises(RegistryError, match="does not let you read x"):
        push(make("8.9"), tag(web))


def test_an_engine_of_a_gpu_that_this_version_does_not_know(web: Web, make: MakeEngine) -> None:
    engine = make("8.9")
    target = manifests.read(engine).targets[0].model_copy(update={"gpu": "nvidia-z9"})
    rewrite(engine, targets=(target,))
    with pytest.raises(TrtpackError, match="unknown GPU 'nvidia-z9'"):
        push(engine, tag(web))


def test_the_digest_does_not_hang_on_where_the_engine_lies(web: Web, make: MakeEngine, tmp_path: Path) -> None:
    engine = make("8.9")
    first = push(engine, tag(web)).reference
    assert push(engine.rename(tmp_path / "elsewhere"), tag(web, "2")).reference == first
