"""An engine in a registry, attested; then each thing that can be wrong with it, told in one line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from packager.attestation import bom, signature
from packager.attestation import statement as statements
from packager.attestation.attached import Attached, attach_engine, read
from packager.attestation.statement import Statement
from packager.attestation.verify import in_registry
from packager.cli import main
from packager.registry.engine import push
from runtime.engine.manifest import Manifest
from runtime.registry import oci
from runtime.registry.artifact import GPU
from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor, ImageManifest
from tests.packager.attestation.conftest import reference_of, write_keys
from tests.plans import make_engine
from tests.runtime.registry.registry_stand_in import Web

Keys = tuple[Path, Path]


@pytest.fixture
def pushed(tmp_path: Path, web: Web) -> tuple[Descriptor, Manifest]:
    """An engine with nothing attached to it."""
    make_engine(tmp_path / "engine", backend="torch")
    return push(tmp_path / "engine", reference_of(web)).engines[0]


def verify(web: Web, *options: object) -> Result:
    return CliRunner().invoke(main, ["verify", str(reference_of(web)), *map(str, options)])


def failed(web: Web, *options: object) -> list[str]:
    """The lines of what failed, with single spaces."""
    result = verify(web, *options)
    assert result.exit_code == 1, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines() if "✗" in line]


def attached(registry: Registry, subject: Descriptor) -> Attached:
    return read(registry, subject.digest)


def replace(web: Web, kind: str, media_type: str, content: bytes) -> None:
    """Takes what is attached of that kind away, and puts `content` in its place."""
    taken = [name for name, (_, stored) in web.manifests.items() if json.loads(stored).get("artifactType") == kind]
    taken = [name for name in taken if "subject" in json.loads(web.manifests[name][1])]
    old = ImageManifest.model_validate_json(web.manifests[taken[0]][1])
    for name in taken:
        web.manifests.pop(name)
    new = old.model_copy(update={"layers": (oci.described(content, media_type),)}).dump()
    web.blobs[oci.digest_of(content)] = content
    web.manifests[oci.digest_of(new)] = (oci.MANIFEST, new)


def test_what_was_attested_passes(
    web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest], keys: Keys
) -> None:
    attach_engine(registry, pushed[0], keys[0])
    result = verify(web, "--key", keys[1], "--full")
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.stdout.splitlines()[1:]] == [
        "manifest:",
        "blobs:",
        "engine:",
        "content:",
        "signature:",
        "provenance:",
        "SBOM:",
    ]
    assert "✗" not in result.stdout
    assert "from hf://org/[tiny] at abc" in result.stdout


def test_what_is_pushed_with_a_key_passes(tmp_path: Path, web: Web, keys: Keys) -> None:
    make_engine(tmp_path / "engine", backend="torch")
    pushing = ["push", "--engine", str(tmp_path / "engine"), str(reference_of(web)), "--sign"]
    refused = CliRunner().invoke(main, [*pushing, str(keys[1])])
    assert refused.exit_code == 2
    assert "is not a private key in PEM that can sign" in refused.stderr
    assert (web.count("PUT", ""), web.count("POST", "")) == (0, 0)
    assert CliRunner().invoke(main, [*pushing, str(keys[0])]).exit_code == 0
    # The tag is the last that is written: what says what the engine is was there before.
    assert [path for method, path in web.asked if method == "PUT"][-1].endswith("/manifests/1")
    assert verify(web, "--key", keys[1]).exit_code == 0


def test_what_cannot_be_signed_is_refused(tmp_path: Path, web: Web, keys: Keys) -> None:
    make_engine(tmp_path / "engine", backend="torch")
    for words in (["hf://me/tiny"], [str(reference_of(web)), "--no-attest"]):
        result = CliRunner().invoke(
            main, ["push", "--engine", str(tmp_path / "engine"), *words, "--sign", str(keys[0])]
        )
        assert result.exit_code == 2, result.output
        assert "--sign signs what" in result.stderr


def test_it_is_told_as_json_too(web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest], keys: Keys) -> None:
    attach_engine(registry, pushed[0], keys[0])
    told = json.loads(verify(web, "--json").stdout)
    assert told["passed"] is True
    (subject,) = told["subjects"]
    assert subject["digest"] == pushed[0].digest
    assert {check["name"]: check["passed"] for check in subject["checks"]}["signature"] is None


def test_without_a_key_nobody_is_said_to_vouch_for_it(
    web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest], keys: Keys
) -> None:
    attach_engine(registry, pushed[0])
    result = verify(web)
    assert result.exit_code == 0, result.output
    assert "- signature:   not signed; nothing vouches for it" in result.stdout
    assert failed(web, "--key", keys[1])[0].startswith("✗ signature: not signed, not by your key")
    attach_engine(registry, pushed[0], keys[0])
    assert "the signer was not checked: name the public key with --key" in verify(web).stdout


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "unsigned"])
def test_to_attach_the_same_twice_adds_nothing(
    tmp_path: Path, web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest], kind: str
) -> None:
    made = ec.generate_private_key(ec.SECP256R1()) if kind == "ecdsa" else ed25519.Ed25519PrivateKey.generate()
    key = None if kind == "unsigned" else write_keys(tmp_path, made)[0]
    attach_engine(registry, pushed[0], key)
    before = set(web.blobs) | set(web.manifests)
    attach_engine(registry, pushed[0], key)
    assert set(web.blobs) | set(web.manifests) == before
    assert len(registry.referrers(pushed[0].digest)) == 2


def test_another_key_has_not_signed(
    tmp_path: Path, web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest], keys: Keys
) -> None:
    attach_engine(registry, pushed[0], keys[0])
    other = write_keys(tmp_path / "other", ed25519.Ed25519PrivateKey.generate())[1]
    (line,) = failed(web, "--key", other)
    assert line.startswith("✗ signature: signed by ")


def test_a_changed_sbom_is_not_the_one_that_the_statement_names(
    web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest], keys: Keys
) -> None:
    attach_engine(registry, pushed[0], keys[0])
    (sbom,) = attached(registry, pushed[0]).sboms
    replace(web, bom.MEDIA_TYPE, bom.MEDIA_TYPE, sbom.replace(b'"tokenizer/', b'"tokeniser/'))
    (line,) = failed(web, "--key", keys[1])
    assert line.startswith("✗ SBOM: the statement names sha256:")
    assert "it lists tokeniser/tokenizer.json, which is not in the manifest" in line


def test_an_sbom_that_names_another_digest_is_told_where_no_statement_binds_it(
    web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest]
) -> None:
    attach_engine(registry, pushed[0])
    found = attached(registry, pushed[0])
    weights = pushed[1].files["weights/model-00001.safetensors"].sha256
    changed = found.sboms[0].replace(weights.encode(), b"0" * 64)
    bound = found.statements[0].content.replace(
        oci.digest_of(found.sboms[0])[7:].encode(), oci.digest_of(changed)[7:].encode()
    )
    replace(web, bom.MEDIA_TYPE, bom.MEDIA_TYPE, changed)
    replace(web, statements.MEDIA_TYPE, statements.MEDIA_TYPE, bound)
    (line,) = failed(web)
    assert line == (f"✗ SBOM: it says {'0' * 64} of weights/model-00001.safetensors, the manifest has {weights}")


def test_a_statement_of_another_digest_is_none_of_this(
    tmp_path: Path, web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest], keys: Keys
) -> None:
    attach_engine(registry, pushed[0], keys[0])
    content = attached(registry, pushed[0]).statements[0].content
    other = content.replace(pushed[0].digest[7:].encode(), b"1" * 64)
    signed = signature.sign(other, signature.signer(keys[0]))
    replace(web, statements.MEDIA_TYPE, signature.MEDIA_TYPE, signed)
    (line,) = failed(web, "--key", keys[1])
    assert line.startswith(f"✗ provenance: the statement is of sha256:{'1' * 64}")


def test_a_statement_of_other_weights_is_told(
    web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest]
) -> None:
    attach_engine(registry, pushed[0])
    content = attached(registry, pushed[0]).statements[0].content
    replace(web, statements.MEDIA_TYPE, statements.MEDIA_TYPE, content.replace(b"hf://org/", b"hf://evil/"))
    (line,) = failed(web)
    assert line.startswith("✗ provenance: it says checkpoint hf://evil/[tiny], engine.json says hf://org/[tiny]")


def test_a_blob_that_is_gone_is_named(web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest]) -> None:
    attach_engine(registry, pushed[0])
    digest = f"sha256:{pushed[1].files['weights/model-00001.safetensors'].sha256}"
    content = web.blobs.pop(digest)
    (line,) = failed(web)
    assert line == f"✗ blobs: weights/model-00001.safetensors ({digest}) is not in the registry"
    web.blobs[digest] = content[:-1]
    (line,) = failed(web)
    assert line == f"✗ blobs: weights/model-00001.safetensors ({digest}) has 4095 bytes, the manifest says 4096"


def test_a_flipped_byte_is_found_by_reading_everything(
    web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest]
) -> None:
    attach_engine(registry, pushed[0])
    digest = f"sha256:{pushed[1].files['weights/model-00001.safetensors'].sha256}"
    content = bytearray(web.blobs[digest])
    content[100] ^= 1
    web.blobs[digest] = bytes(content)
    assert verify(web).exit_code == 0
    (line,) = failed(web, "--full")
    assert line.startswith(f"✗ content: weights/model-00001.safetensors ({digest}) came with sha256:")


def test_a_changed_manifest_is_damaged(web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest]) -> None:
    attach_engine(registry, pushed[0])
    media_type, content = web.manifests[pushed[0].digest]
    web.manifests[pushed[0].digest] = (media_type, content.replace(b"tokenizer.json", b"tokeniser.json"))
    (line,) = failed(web)
    assert line.startswith("✗ manifest:")
    assert "is damaged in the registry" in line


def test_a_file_in_pieces_is_read_whole(
    tmp_path: Path, web: Web, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.registry.artifact.PIECE", 1000)
    make_engine(tmp_path / "cut", backend="torch")
    ((_, manifest),) = push(tmp_path / "cut", registry.reference, attach=attach_engine).engines
    assert verify(web, "--full").exit_code == 0
    weights = (tmp_path / "cut/weights/model-00001.safetensors").read_bytes()
    piece = oci.digest_of(weights[1000:2000])
    web.blobs[piece] = bytes(1000)
    (line,) = failed(web, "--full")
    whole = manifest.files["weights/model-00001.safetensors"].sha256
    assert line.startswith(f"✗ content: weights/model-00001.safetensors (sha256:{whole}) came with sha256:")


def test_what_was_never_attested_is_told(web: Web, pushed: tuple[Descriptor, Manifest]) -> None:
    assert failed(web) == [
        "✗ provenance: no statement is attached: push it again with trtpack push",
        "✗ SBOM: none is attached: push it again with trtpack push",
    ]


def test_each_gpu_has_its_own(tmp_path: Path, web: Web, registry: Registry) -> None:
    make_engine(tmp_path / "two", "8.9", "12.0", backend="tensorrt")
    push(tmp_path / "two", registry.reference, attach=attach_engine)
    assert [one.passed for one in in_registry(reference_of(web))] == [True, True]
    result = verify(web, "--gpu", "L4")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].endswith(" for nvidia-l4")
    assert "at revision abc, for nvidia-l4, by tensorrt 11.4.1.5: 7 files" in result.stdout
    result = verify(web, "--gpu", "T4")
    assert result.exit_code == 1
    assert "none for nvidia-tesla-t4" in result.stderr


def test_an_index_that_lies_about_the_gpu_is_told(tmp_path: Path, web: Web, registry: Registry) -> None:
    make_engine(tmp_path / "two", "8.9", backend="tensorrt")
    ((subject, _),) = push(tmp_path / "two", registry.reference, attach=attach_engine).engines
    lying = oci.ImageIndex(manifests=(subject.model_copy(update={"annotations": {GPU: "nvidia-tesla-t4"}}),))
    registry.put_manifest("1", lying.dump(), oci.INDEX)
    (line,) = failed(web)
    assert line == "✗ engine: the index says that it is for nvidia-tesla-t4, engine.json says nvidia-l4"


def test_what_others_attach_does_no_harm(
    web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest], keys: Keys
) -> None:
    attach_engine(registry, pushed[0], keys[0])
    for kind, media_type, content in (
        (bom.MEDIA_TYPE, bom.MEDIA_TYPE, b"{}"),
        (statements.MEDIA_TYPE, signature.MEDIA_TYPE, b"no envelope"),
        (statements.MEDIA_TYPE, statements.MEDIA_TYPE, b"[]"),
    ):
        registry.put_small_blob(content)
        layer = oci.described(content, media_type)
        config = oci.described(b"{}", oci.EMPTY)
        registry.refer(ImageManifest(artifact_type=kind, config=config, layers=(layer,), subject=pushed[0]))
    assert verify(web, "--key", keys[1]).exit_code == 0


@pytest.mark.parametrize("kind", ["index", "manifest"])
def test_what_does_not_say_its_own_type_is_checked_all_the_same(
    web: Web, registry: Registry, pushed: tuple[Descriptor, Manifest], kind: str
) -> None:
    """The mediaType inside is optional in both (image specification 1.1)."""
    media_type, content = web.manifests["1" if kind == "index" else pushed[0].digest]
    untyped = json.loads(content)
    del untyped["mediaType"]
    web.manifests["1"] = (media_type, json.dumps(untyped).encode())
    if kind == "manifest":
        web.manifests[oci.digest_of(web.manifests["1"][1])] = web.manifests["1"]
    assert [line.split()[1] for line in failed(web)] == ["provenance:", "SBOM:"]


def test_an_index_of_nothing_does_not_pass(web: Web, registry: Registry) -> None:
    registry.put_manifest("1", oci.ImageIndex().dump(), oci.INDEX)
    result = verify(web)
    assert result.exit_code == 1
    assert "is an index of nothing" in result.stderr


def test_what_is_not_there_is_told(web: Web) -> None:
    result = verify(web)
    assert result.exit_code == 1
    assert "is not in the registry: check its name and tag" in result.stderr


def test_a_key_that_is_none_is_wrong_usage(web: Web, tmp_path: Path) -> None:
    assert verify(web, "--key", tmp_path / "none.pem").exit_code == 2


def test_the_statement_says_from_what_for_what_and_by_what(
    registry: Registry, pushed: tuple[Descriptor, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTPACK_BUILDER_ID", "https://ci.example/workflow")
    attach_engine(registry, pushed[0])
    subject, manifest = pushed
    content = attached(registry, subject).statements[0].content
    raw = json.loads(content)
    assert raw["_type"] == "https://in-toto.io/Statement/v1"
    assert raw["predicateType"] == "https://slsa.dev/provenance/v1"
    statement = Statement.parse(content)
    assert statement.dump() == content
    assert statement.is_of(subject.digest)
    assert statement.is_of(oci.digest_of(manifest.dump().encode()))
    definition, run = statement.predicate.build_definition, statement.predicate.run_details
    assert run.builder.id == "https://ci.example/workflow"
    assert definition.external_parameters["limits"] == manifest.limits.model_dump(exclude_none=True)
    assert definition.resolved_dependencies[0].uri == "hf://org/[tiny]"
    assert definition.resolved_dependencies[0].digest == {"gitCommit": "abc"}


def test_a_folder_is_checked_too(tmp_path: Path, pushed: tuple[Descriptor, Manifest]) -> None:
    folder = tmp_path / "engine"
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.exit_code == 0, result.output
    (folder / "tokenizer/tokenizer.json").write_text("[]")
    result = CliRunner().invoke(main, ["verify", str(folder)])
    assert result.exit_code == 1
    assert "✗ engine:" in result.stdout
    assert "tokenizer.json has sha256" in result.stdout
    assert CliRunner().invoke(main, ["verify", str(folder), "--full"]).exit_code == 2
