"""Evidence in a real registry and of a real image: attached, checked, and each thing that can be wrong with it told.

Runs where a Docker engine answers and TESTBED_REGISTRY names a registry that takes deletes. TESTBED_BASE_IMAGE names a
base image other than the default.
"""

import json
import os
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec

from packager.attestation import bom, signature, statement
from packager.attestation.attached import attach_engine, read
from packager.cli import main
from packager.registry.engine import push
from runtime.engine.manifest import Manifest
from runtime.registry import oci
from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor, ImageIndex, ImageManifest
from runtime.registry.reference import Reference
from tests.packager.attestation.conftest import write_keys
from tests.plans import make_engine
from tests.testbed import docker, remove

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("registry")]

Keys = tuple[Path, Path]


def trtpack(*args: object) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


def failed(*args: object) -> list[str]:
    result = trtpack("verify", *args)
    assert result.exit_code == 1, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines() if "✗" in line]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return write_keys(tmp_path_factory.mktemp("keys"), ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def registry() -> Iterator[Registry]:
    host = os.environ.get("TESTBED_REGISTRY")
    if not host:
        pytest.skip("TESTBED_REGISTRY names no registry")
    with Registry(Reference.parse(f"{host}/attest/{uuid.uuid4().hex[:8]}:1")) as registry:
        yield registry


@pytest.fixture
def attested(tmp_path: Path, registry: Registry, keys: Keys) -> list[tuple[Descriptor, Manifest]]:
    """Engines for an L4 and an RTX PRO 6000 at one tag, each with what says what it is."""
    make_engine(tmp_path / "engine", "8.9", "12.0")
    return list(push(tmp_path / "engine", registry.reference, attach=partial(attach_engine, key=keys[0])).engines)


def replace(registry: Registry, subject: Descriptor, kind: str, media_type: str, content: bytes) -> None:
    """Puts `content` in the place of what is attached of that kind.

    Where the registry has no referrers API, as distribution 2.8, the list is an index that anyone can write.
    """
    (old,) = registry.referrers(subject.digest, kind)
    stored = registry.manifest(old.digest)
    assert stored
    registry.put_small_blob(content)
    manifest = ImageManifest.model_validate_json(stored).model_copy(
        update={"layers": (oci.described(content, media_type),)}
    )
    entry = oci.described(manifest.dump(), oci.MANIFEST).model_copy(update={"artifact_type": kind})
    registry.put_manifest(entry.digest, manifest.dump(), oci.MANIFEST)
    delete(registry, "manifests", old.digest)
    listed = registry.manifest(subject.digest.replace(":", "-"))
    if listed is not None:
        index = ImageIndex.model_validate_json(listed)
        kept = tuple(one for one in index.manifests if one.digest != old.digest)
        new = index.model_copy(update={"manifests": (*kept, entry)})
        registry.put_manifest(subject.digest.replace(":", "-"), new.dump(), oci.INDEX)


def delete(registry: Registry, what: str, digest: str) -> None:
    reference = registry.reference
    answer = httpx.delete(f"http://{reference.registry}/v2/{reference.repository}/{what}/{digest}")
    assert answer.status_code == 202, answer.text


def test_an_engine_for_two_gpus_passes(
    registry: Registry, attested: list[tuple[Descriptor, Manifest]], keys: Keys
) -> None:
    result = trtpack("verify", registry.reference, "--key", keys[1], "--full")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("✓ signature:") == result.stdout.count("✓ SBOM:") == 2
    for subject, _ in attested:
        before = registry.referrers(subject.digest)
        attach_engine(registry, subject, keys[0])
        assert registry.referrers(subject.digest) == before
        assert sorted(str(one.artifact_type) for one in before) == [bom.MEDIA_TYPE, statement.MEDIA_TYPE]


def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, registry: Registry, attested: list[tuple[Descriptor, Manifest]], keys: Keys
) -> None:
    other = write_keys(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))[1]
    l4, reference = ("--gpu", "L4", "--key", keys[1]), registry.reference
    subject, manifest = next(one for one in attested if one[1].targets[0].gpu == "nvidia-l4")
    found = read(registry, subject.digest)

    (line,) = failed(reference, "--gpu", "L4", "--key", other)
    assert line.startswith("✗ signature: signed by ")

    changed = found.sboms[0].replace(b'"plans/', b'"plan/')
    replace(registry, subject, bom.MEDIA_TYPE, bom.MEDIA_TYPE, changed)
    (line,) = failed(reference, *l4)
    assert line.startswith(f"✗ SBOM: the statement names {oci.digest_of(found.sboms[0])}")
    replace(registry, subject, bom.MEDIA_TYPE, bom.MEDIA_TYPE, found.sboms[0])
    assert trtpack("verify", reference, *l4).exit_code == 0

    moved = found.statements[0].content.replace(subject.digest[7:].encode(), b"1" * 64)
    signed = signature.sign(moved, signature.signer(keys[0]))
    replace(registry, subject, statement.MEDIA_TYPE, signature.MEDIA_TYPE, signed)
    (line,) = failed(reference, *l4)
    assert line.startswith(f"✗ provenance: the statement is of sha256:{'1' * 64}")

    plan = next(name for name in manifest.files if name.endswith("middle.plan"))
    delete(registry, "blobs", f"sha256:{manifest.files[plan].sha256}")
    lines = failed(reference, *l4)
    assert len(lines) == 1
    assert f"{plan} (sha256:{manifest.files[plan].sha256}) is not in the registry" in lines[0]


def base() -> tuple[str, ...]:
    name = os.environ.get("TESTBED_BASE_IMAGE")
    return ("--base", name) if name else ()


def test_nothing_in_an_image_is_unaccounted_for(tiny_image: str, tmp_path: Path) -> None:
    result = trtpack("sbom", tiny_image, *base(), "--unaccounted")
    assert (result.stdout, result.exit_code) == ("", 0), result.output
    out = tmp_path / "image.cdx.json"
    assert trtpack("sbom", tiny_image, *base(), "--out", out).exit_code == 0
    components = {one.get("purl", one["name"]).partition("@")[0] for one in json.loads(out.read_text())["components"]}
    assert {"pkg:pypi/torch", "pkg:pypi/uvicorn", "/app/config.yaml", "/app/greeting.txt", "trtpack"} <= components


def test_a_file_that_nobody_brought_is_listed(tmp_path: Path) -> None:
    """The same base image with one file more and one changed."""
    if not (name := os.environ.get("TESTBED_BASE_IMAGE")):
        pytest.skip("TESTBED_BASE_IMAGE names no image")
    (tmp_path / "miner").write_text("#!/bin/sh\n")
    container, changed = docker("create", name, "true"), f"trtpack-attest:{uuid.uuid4().hex[:8]}"
    try:
        for path in ("/usr/bin/miner", "/usr/bin/env"):
            docker("cp", str(tmp_path / "miner"), f"{container}:{path}")
        docker("commit", container, changed)
        result = trtpack("sbom", changed, *base(), "--unaccounted")
        assert result.exit_code == 1
        assert result.stdout.splitlines() == ["/usr/bin/env", "/usr/bin/miner"]
        assert f"2 files of {changed} are in no component of its SBOM" in result.stderr
    finally:
        docker("rm", container)
        remove(changed)


def test_an_image_that_was_pushed_is_what_its_sbom_says(
    small_image: str, small_package: Path, registry: Registry, keys: Keys
) -> None:
    reference = registry.reference
    name = f"{reference.registry}/{reference.repository}:{reference.tag}"
    result = trtpack("push", small_package, name, "--image", small_image, *base(), "--sign", keys[0])
    assert result.exit_code == 0, result.output
    content = registry.manifest(reference.name)
    assert content
    subject = oci.described(content, json.loads(content)["mediaType"])
    assert len(registry.referrers(subject.digest)) == 2
    result = trtpack("verify", reference, "--key", keys[1], "--full")
    assert result.exit_code == 0, result.output

    sbom = read(registry, subject.digest).sboms[0]
    replace(registry, subject, bom.MEDIA_TYPE, bom.MEDIA_TYPE, sbom.replace(b"/app/greeting.txt", b"/app/greeted.txt"))
    (line,) = failed(reference, "--key", keys[1])
    assert line.startswith("✗ SBOM: the statement names sha256:")
