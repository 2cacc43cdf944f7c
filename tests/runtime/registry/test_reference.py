"""Names of things in a registry."""

import pytest

from runtime.errors import RegistryError
from runtime.registry.reference import Reference

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://ghcr.io/me/model:1", Reference("ghcr.io", "me/model", "1")),
        ("ghcr.io/me/model", Reference("ghcr.io", "me/model", "latest")),
        ("oci://localhost:5000/m", Reference("localhost:5000", "m", "latest")),
        ("oci://[::1]:5000/m:v_1.0-x", Reference("[::1]:5000", "m", "v_1.0-x")),
        (f"oci://localhost/a/b__c/d-e.f@{DIGEST}", Reference("localhost", "a/b__c/d-e.f", None, DIGEST)),
        (f"oci://localhost/a:1@{DIGEST}", Reference("localhost", "a", "1", DIGEST)),
    ],
)
def test_what_is_read(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "oci://",
        "oci://ghcr.io",
        "oci://me/model:1",  # no registry: Docker Hub is to be named
        "oci://ghcr.io/Me/model",
        "oci://ghcr.io/me//model",
        "oci://ghcr.io/me/../model",
        "oci://ghcr.io/me/model:",
        "oci://ghcr.io/me/model@sha256:abc",
        "oci://ghcr.io/me/model:1 ",
        "oci://user@ghcr.io/me/model",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(RegistryError, match="write it as oci://REGISTRY/NAME:TAG"):
        Reference.parse(text)


@pytest.mark.parametrize("text", ["oci://a.b/c:1", f"oci://a.b/c@{DIGEST}", f"oci://a.b/c:1@{DIGEST}"])
def test_it_is_written_as_it_is_read(text: str) -> None:
    assert str(Reference.parse(text)) == text


def test_a_digest_goes_before_a_tag() -> None:
    reference = Reference.parse(f"oci://a.b/c:1@{DIGEST}")
    assert reference.name == DIGEST
    assert str(reference.at(DIGEST)) == f"oci://a.b/c@{DIGEST}"
    assert str(reference.tagged("2")) == "oci://a.b/c:2"
