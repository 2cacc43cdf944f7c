import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from packager.attestation import bom, engine, image
from packager.attestation.document import Document
from packager.attestation.image import Base, Described
from packager.errors import ConfigError
from runtime.engine.manifest import Adapter, Model, Speculation, sha256
from tests.packager.attestation.tars import Files, tree
from tests.packager.attestation.test_inventory import image as image_files
from tests.plans import CONFIG, make_engine, record

__all__ = ["image_files"]
LABELS = {"org.opencontainers.image.title": "Tiny", "trtpack.version": "0.1.0"}
DESCRIBED = Described(LABELS, ("/app", "/trtpack"), ("sha256:1", "sha256:2"))


def valid(content: bytes) -> Any:
    """The document, which the format's own schema has nothing against."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.decode()) is None
    return json.loads(content)


def test_an_engines_document_names_every_file_and_its_checkpoint(tmp_path: Path) -> None:
    manifest = make_engine(tmp_path, "8.9", adapters=(Adapter(name="tone", source="hf://me/tone", revision="def"),))
    document = valid(bom.engine(engine.in_folder(tmp_path)))
    subject = document["metadata"]["component"]
    assert subject["type"] == "machine-learning-model"
    assert Document.model_validate(document).subject.files() == {
        **{name: file.sha256 for name, file in manifest.files.items()},
        "engine.json": sha256(tmp_path / "engine.json"),
    }
    ancestors = {one["name"]: one["purl"] for one in subject["pedigree"]["ancestors"]}
    assert ancestors == {
        "hf://org/[tiny]": "pkg:huggingface/org/%5Btiny%5D@abc",
        "hf://me/tone": "pkg:huggingface/me/tone@def",
    }
    assert {one["purl"] for one in document["components"]} == {
        f"pkg:pypi/tensorrt-rtx@{manifest.backend.version}",
        "pkg:pypi/torch@2.13.0",
    }
    facts = {one["name"]: one["value"] for one in subject["properties"]}
    assert facts["trtpack:gpus"] == "nvidia-l4"
    assert facts["trtpack:dtype"] == "float16"


def test_a_draft_models_files_and_checkpoint_are_named_too(tmp_path: Path) -> None:
    guessing = Speculation(method="draft_model")
    made = make_engine(tmp_path, backend="torch", speculation=guessing)
    own = Model(architecture="LlamaForCausalLM", source="/models/small", config=CONFIG)
    draft = make_engine(tmp_path / "draft", backend="torch", model=own)
    (tmp_path / "engine.json").write_text(made.dump())
    document = valid(bom.engine(engine.in_folder(tmp_path)))
    named = Document.model_validate(document).subject.files()
    assert {name for name in named if name.startswith("draft/")} == {
        "draft/engine.json",
        *(f"draft/{n}" for n in draft.files),
    }
    assert "/models/small" in [one["name"] for one in document["metadata"]["component"]["pedigree"]["ancestors"]]


def test_the_same_engine_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_engine(tmp_path, backend="torch")
    first = bom.engine(engine.in_folder(tmp_path))
    assert bom.engine(engine.in_folder(tmp_path)) == first
    assert b"timestamp" not in first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert valid(bom.engine(engine.in_folder(tmp_path)))["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        bom.engine(engine.in_folder(tmp_path))
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    (tmp_path / "tokenizer/tokenizer.json").write_text("{ }")
    record(tmp_path, manifest)
    assert json.loads(bom.engine(engine.in_folder(tmp_path)))["serialNumber"] != json.loads(first)["serialNumber"]


def test_an_images_document_names_what_it_is_made_of(image_files: Files) -> None:
    found = image.evidence(DESCRIBED, tree(image_files))
    document = valid(found.sbom)
    assert document["metadata"]["component"]["name"] == "Tiny"
    listed = Document.model_validate(document).listed()
    assert {
        "library debian: pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-bookworm&upstream=glibc%402.36-9",
        "library pkg:pypi/one@1.0",
        "file /app/config.yaml",
        "file trtpack: /trtpack/runtime/llm.py",
        "file [tiny] engine: weights/model-00001.safetensors",
    } <= set(listed)
    assert document["metadata"]["component"]["properties"][-1] == {"name": "trtpack:unaccounted-files", "value": "0"}


def test_an_images_document_is_the_same_for_the_same_files(image_files: Files) -> None:
    backwards = dict(reversed(image_files.items()))
    assert image.evidence(DESCRIBED, tree(backwards)).sbom == image.evidence(DESCRIBED, tree(image_files)).sbom


def test_what_came_with_the_base_image_is_named_under_it(image_files: Files) -> None:
    base = Base("python:3.11", 1, tree({"usr/bin/tool": "1"}))
    found = image.evidence(DESCRIBED, tree({**image_files, "usr/bin/tool": "1"}), base)
    document = Document.parse(found.sbom)
    valid(found.sbom)
    assert "file python:3.11: /usr/bin/tool" in document.listed()
    assert document.base() == ("python:3.11", 1)
