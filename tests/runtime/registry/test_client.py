"""The client against a stand-in: challenges, faults, and what it says of them."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import RegistryError
from runtime.registry import oci
from runtime.registry.client import Registry, UnavailableError
from runtime.registry.oci import Descriptor, ImageIndex, ImageManifest
from runtime.registry.reference import Reference
from tests.runtime.registry.registry_stand_in import IDENTITY, PASSWORD, USER, Web, registry

CONTENT = b"0123456789" * 1000


def at(web: Web, tag: str = "1") -> Registry:
    return Registry(Reference(web.address, "x", tag))


def blob(content: bytes = CONTENT) -> Descriptor:
    return oci.described(content, "application/octet-stream")


@pytest.fixture
def logged_in(tmp_path: Path, web: Web) -> Web:
    return log_in(tmp_path, web, auth=base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())


def log_in(tmp_path: Path, web: Web, **entry: str) -> Web:
    (tmp_path / "docker").mkdir(exist_ok=True)
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {web.address: entry}}))
    return web


def read(client: Registry, descriptor: Descriptor, offset: int = 0) -> tuple[int, bytes]:
    with client.blob(descriptor, offset) as (start, chunks):
        return start, b"".join(chunks)


def test_a_blob_goes_there_and_back(web: Web) -> None:
    with at(web) as client:
        assert not client.has(blob().digest)
        client.put_blob(blob(), [CONTENT[:9], CONTENT[9:]])
        assert client.has(blob().digest)
        assert read(client, blob()) == (0, CONTENT)
        assert read(client, blob(), 9990) == (9990, b"0123456789")
        assert client.small_blob(blob()) == CONTENT


def test_a_small_blob_is_sent_once(web: Web) -> None:
    with at(web) as client:
        assert client.put_small_blob(b"{}") == client.put_small_blob(b"{}") == blob(b"{}").digest
        assert client.put_small_blob(b"") == blob(b"").digest
    assert web.count("PUT", "digest=sha256") == 2


def test_a_manifest_is_written_at_a_tag_and_read_at_its_digest(web: Web) -> None:
    index = ImageIndex().dump()
    with at(web) as client:
        assert client.manifest("1") is None
        client.put_manifest("1", index, oci.INDEX)
        assert client.manifest("1") == client.manifest(oci.digest_of(index)) == index


def test_a_manifest_that_changed_in_the_registry_is_refused(web: Web) -> None:
    with at(web) as client:
        client.put_manifest("1", b"{}", oci.INDEX)
        web.manifests[oci.digest_of(b"{}")] = (oci.INDEX, b"{ }")
        with pytest.raises(RegistryError, match="damaged in the registry"):
            client.manifest(oci.digest_of(b"{}"))


def test_a_small_blob_that_changed_in_the_registry_is_refused(web: Web) -> None:
    web.blobs[blob().digest] = b"else"
    with at(web) as client, pytest.raises(RegistryError, match="damaged in the registry"):
        client.small_blob(blob())


def test_content_of_another_digest_is_refused_by_the_registry(web: Web) -> None:
    with at(web) as client, pytest.raises(RegistryError, match="HTTP 400 to PUT: provided digest did not match"):
        client.put_blob(blob(), [bytes(len(CONTENT))])
    assert not web.blobs


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_a_challenge_is_answered_with_what_docker_knows(scheme: str, logged_in: Web) -> None:
    logged_in.auth = scheme
    with at(logged_in) as client:
        assert client.manifest("1") is None
        client.put_blob(blob(), [CONTENT])
        assert read(client, blob()) == (0, CONTENT)


def test_a_token_is_widened_when_it_comes_to_writing(logged_in: Web) -> None:
    logged_in.auth = "bearer"
    with at(logged_in) as client:
        client.has(blob().digest)
        client.put_blob(blob(), [CONTENT])
    assert [scope for scope, _ in logged_in.tokens.values() if scope] == ["repository:x:pull", "repository:x:pull,push"]


def test_an_identity_token_stands_for_user_and_password(tmp_path: Path, web: Web) -> None:
    log_in(tmp_path, web, auth=base64.b64encode(b"0:").decode(), identitytoken=IDENTITY).auth = "bearer"
    with at(web) as client:
        client.put_blob(blob(), [CONTENT])
    assert web.count("POST", "/token") == 1


def test_a_token_that_expires_is_replaced_and_the_content_sent_again(logged_in: Web) -> None:
    """Each token here is good for one request: the upload is begun with one, and refused with it."""
    logged_in.auth, logged_in.token_uses = "bearer", 1
    with at(logged_in) as client:
        client.put_blob(blob(), [CONTENT[:5000], CONTENT[5000:]])
    assert logged_in.blobs[blob().digest] == CONTENT
    assert logged_in.count("PUT", "uploads") == 2


@pytest.mark.parametrize(("scheme", "verb"), [("basic", "read"), ("bearer", "read")])
def test_refused_without_credentials(web: Web, scheme: str, verb: str) -> None:
    web.auth = scheme
    with at(web) as client, pytest.raises(RegistryError) as error:
        client.manifest("1")
    assert str(error.value) == (
        f"{web.address} does not let you {verb} x (HTTP 401): log in with docker login {web.address}, "
        "or ask its owner for the right"
    )


def test_who_gives_out_tokens_is_not_taken_for_the_registry(logged_in: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers 200 without a token."""
    logged_in.auth = "bearer"
    monkeypatch.setattr("runtime.registry.auth._bearer", lambda answer: None)
    with at(logged_in) as client, pytest.raises(RegistryError, match="does not let you read x"):
        client.manifest("1")


def test_refused_with_wrong_credentials(tmp_path: Path, web: Web) -> None:
    log_in(tmp_path, web, auth=base64.b64encode(b"me:wrong").decode()).auth = "bearer"
    with at(web) as client, pytest.raises(RegistryError, match="does not let you write to x"):
        client.put_blob(blob(), [CONTENT])


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(web: Web, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("runtime.registry.client.sleep", waited.append)
    web.busy = [(status, "3"), (status, None), (status, "Fri, 31 Dec 1999 23:59:59 GMT")]
    with at(web) as client:
        client.put_blob(blob(), [CONTENT])
    assert waited == [3, 1, 2]
    assert web.blobs[blob().digest] == CONTENT


def test_a_blob_that_was_refused_at_its_end_is_begun_again(web: Web) -> None:
    web.busy, web.busy_path = [(503, "0")], "digest="
    with at(web) as client:
        client.put_blob(blob(), [CONTENT])
    assert (web.count("POST", "uploads"), web.count("PUT", "uploads")) == (2, 2)


def test_a_registry_that_stays_busy(web: Web) -> None:
    web.busy = [(503, "0")] * 9
    with at(web) as client, pytest.raises(UnavailableError, match="answered HTTP 503 to GET; try again later"):
        client.manifest("1")


def test_nobody_answers() -> None:
    with registry() as web:
        gone = web.address
    with Registry(Reference(gone, "x", "1")) as client, pytest.raises(UnavailableError) as error:
        client.manifest("1")
    assert str(error.value).startswith(
        f"the connection to {gone} failed: [Errno 111] Connection refused; check the name"
    )


def test_a_blob_elsewhere_is_fetched_without_our_credentials(logged_in: Web) -> None:
    with registry() as storage:
        storage.put(CONTENT)
        logged_in.put(CONTENT)
        logged_in.auth, logged_in.elsewhere = "basic", f"http://{storage.address}"
        with at(logged_in) as client:
            client.manifest("1")
            assert read(client, blob(), 10) == (10, CONTENT[10:])
        assert storage.authorizations == [""]
        assert logged_in.authorizations[-1].startswith("Basic ")


def test_an_upload_elsewhere_carries_none_of_our_credentials(logged_in: Web) -> None:
    with registry() as storage:
        logged_in.auth, logged_in.uploads = "basic", f"http://{storage.address}"
        with at(logged_in) as client:
            client.put_blob(blob(), [CONTENT])
        assert storage.blobs[blob().digest] == CONTENT
        assert storage.authorizations == [""]


def test_a_challenge_from_elsewhere_is_not_answered(logged_in: Web) -> None:
    with registry(auth="basic") as storage:
        logged_in.put(CONTENT)
        logged_in.elsewhere = f"http://{storage.address}"
        with at(logged_in) as client, pytest.raises(RegistryError, match="does not let you read"):
            read(client, blob())
        assert storage.authorizations == [""]


def test_a_registry_without_ranges_begins_at_the_first_byte(web: Web) -> None:
    web.ranges = False
    web.put(CONTENT)
    with at(web) as client:
        assert read(client, blob(), 10) == (0, CONTENT)


def test_a_connection_that_breaks_is_told_as_one(web: Web) -> None:
    web.cut = 1
    web.put(CONTENT)
    with at(web) as client, pytest.raises(UnavailableError, match=r"the connection to .* failed"):
        read(client, blob())


def test_a_blob_that_is_not_there(web: Web) -> None:
    with at(web) as client, pytest.raises(RegistryError, match=r"is not in the registry \(HTTP 404\)"):
        read(client, blob())


@pytest.mark.parametrize("api", [True, False])
def test_referrers_with_the_api_and_without(web: Web, api: bool) -> None:
    web.referrers = api
    subject = oci.described(b"{}", oci.MANIFEST)
    with at(web) as client:
        for kind in ("a/b", "c/d"):
            empty = oci.described(b"{}", oci.EMPTY)
            said = ImageManifest(artifact_type=kind, config=empty, subject=subject)
            assert client.refer(said) == client.refer(said)
        assert {entry.artifact_type for entry in client.referrers(subject.digest)} == {"a/b", "c/d"}
        assert [entry.artifact_type for entry in client.referrers(subject.digest, "c/d")] == ["c/d"]
    assert (f"sha256-{subject.digest[7:]}" in web.manifests) is not api


@pytest.mark.parametrize(
    ("host", "listed", "scheme"),
    [
        ("localhost:1", "", "http"),
        ("127.0.0.2:1", "", "http"),
        ("[::1]:1", "", "http"),
        ("registry.test", "", "https"),
        ("registry.test:5000", "other,registry.test:5000", "http"),
    ],
)
def test_plain_http_is_for_this_machine_and_what_the_user_lists(
    host: str, listed: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def send(self: Any, request: Any, **options: Any) -> Iterator[None]:
        asked.append(request.url.scheme)
        raise RegistryError("enough")

    monkeypatch.setenv("TRTPACK_PLAIN_HTTP_REGISTRIES", listed)
    monkeypatch.setattr("httpx.Client.send", send)
    with Registry(Reference(host, "x", "1")) as client, pytest.raises(RegistryError, match="enough"):
        client.manifest("1")
    assert asked == [scheme]
