"""A client of one repository in an OCI registry (github.com/opencontainers/distribution-spec, version 1.1).

It keeps to what every registry has. A blob is sent in one request: an upload in chunks is of no help where a connection
breaks in the middle of one, for Distribution, of which most registries are made, then refuses the address that it gave
before (measured with 2.8.2), so what is large is cut into several blobs (runtime.registry.artifact).
oras-py and python-dxf were looked at: the one reads each blob whole into memory and cannot widen a token's scope, the
other cannot resume a download.
"""

import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import sleep
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from runtime.errors import RegistryError
from runtime.registry import credentials, oci
from runtime.registry.auth import RegistryAuth
from runtime.registry.oci import Descriptor, ImageIndex, ImageManifest
from runtime.registry.reference import Reference

PLAIN_HTTP_VARIABLE = "TRTPACK_PLAIN_HTTP_REGISTRIES"  # host[:port], with commas between
_SECONDS = 60.0  # without a byte
_ATTEMPTS = 4
_BUSY = {429, 500, 502, 503, 504}
_MANIFESTS = (oci.MANIFEST, oci.INDEX, oci.DOCKER_MANIFEST, oci.DOCKER_INDEX)
# The specification's own limit for what a registry must take.
_LARGEST_MANIFEST = 4 * 2**20
_HUB, _HUB_API = "docker.io", "registry-1.docker.io"
T = TypeVar("T")


class UnavailableError(RegistryError):
    """The registry does not answer, or is busy: another try may help, after `wait` seconds where it names some."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Registry:
    """The repository that `reference` names; a context manager that closes its connections.

    Every method raises RegistryError, in words for the user, for what the registry refuses or fails at.
    """

    def __init__(self, reference: Reference) -> None:
        host = reference.registry
        address = httpx.URL(f"{'http' if _is_plain(host) else 'https'}://{_HUB_API if host == _HUB else host}")
        self.reference = reference
        self._base = f"{str(address).rstrip('/')}/v2/{reference.repository}"
        self._http = httpx.Client(
            auth=RegistryAuth(address, lambda: credentials.find(host)),
            timeout=_SECONDS,
            follow_redirects=True,
            headers={"User-Agent": "trtpack"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def manifest(self, name: str) -> bytes | None:
        """The manifest or index at a tag or digest, whose digest is checked; None where there is none."""
        response = self._send("GET", f"/manifests/{name}", headers={"Accept": ", ".join(_MANIFESTS)}, missing=True)
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        content = response.content
        if name.startswith("sha256:") and oci.digest_of(content) != name:
            raise RegistryError(
                f"{self.reference.at(name)} is damaged in the registry: its content has {oci.digest_of(content)}; "
                "push it again"
            )
        return content

    def put_manifest(self, name: str, content: bytes, media_type: str) -> None:
        """Writes a manifest or index at a tag or at its digest; what it names must be there."""
        if len(content) > _LARGEST_MANIFEST:
            raise RegistryError(f"the manifest of {self.reference} is larger than the 4 MiB that registries take")
        self._send("PUT", f"/manifests/{name}", content=content, headers={"Content-Type": media_type})

    def has(self, digest: str) -> bool:
        """Whether a blob is there."""
        return self._send("HEAD", f"/blobs/{digest}", missing=True).is_success

    def size(self, digest: str) -> int | None:
        """The size of a blob in bytes; None where there is none."""
        response = self._send("HEAD", f"/blobs/{digest}", missing=True)
        return int(response.headers.get("content-length", 0)) if response.is_success else None

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[tuple[int, Iterator[bytes]]]:
        """A blob's content from `offset`, or from where the registry begins: (start, chunks). Nothing is checked.

        A connection that breaks while the caller reads raises RegistryError, too: ask again from where it was.
        """
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        request = self._http.build_request("GET", f"{self._base}/blobs/{descriptor.digest}", headers=headers)
        with self._explained():
            response = self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    raise self._refused(response)
                partial = response.status_code == httpx.codes.PARTIAL_CONTENT
                yield offset if partial else 0, response.iter_raw()
            finally:
                response.close()

    def small_blob(self, descriptor: Descriptor) -> bytes:
        """The content of a blob that fits in memory, checked."""
        content = self._send("GET", f"/blobs/{descriptor.digest}").content
        if oci.digest_of(content) != descriptor.digest:
            raise RegistryError(f"{self.reference.at(descriptor.digest)} is damaged in the registry; push it again")
        return content

    def put_blob(self, descriptor: Descriptor, content: Iterable[bytes]) -> None:
        """Uploads a blob, whose digest the registry compares; `content` is read anew where it must be sent again."""
        self._tried(lambda: self._put_blob(descriptor, content))

    def put_small_blob(self, content: bytes) -> str:
        """Uploads what fits in memory, unless it is there; returns its digest."""
        descriptor = oci.described(content, "application/octet-stream")
        if not self.has(descriptor.digest):
            self.put_blob(descriptor, [content])
        return descriptor.digest

    def refer(self, manifest: ImageManifest) -> str:
        """Writes a manifest that has a subject, so that `referrers` finds it; returns its digest.

        Where the registry has no referrers API, the list is an index at the tag sha256-HEX of the subject
        (distribution specification, "Referrers Tag Schema").
        """
        if manifest.subject is None:
            raise ValueError("expected a manifest with a subject")
        content = manifest.dump()
        entry = oci.described(content, manifest.media_type, manifest.annotations)
        entry = entry.model_copy(update={"artifact_type": manifest.artifact_type})
        self.put_manifest(entry.digest, content, manifest.media_type)
        if self._listed(manifest.subject.digest) is None:
            tag = _referrers_tag(manifest.subject.digest)
            index = (self._index(tag) or ImageIndex()).replacing(entry)
            self.put_manifest(tag, index.dump(), index.media_type)
        return entry.digest

    def referrers(self, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """The manifests that have that one as their subject, of one kind or all."""
        index = self._listed(digest) or self._index(_referrers_tag(digest)) or ImageIndex()
        return [entry for entry in index.manifests if artifact_type in (None, entry.artifact_type)]

    def _listed(self, digest: str) -> ImageIndex | None:
        """What the referrers API says; None where the registry has none."""
        response = self._send("GET", f"/referrers/{digest}", missing=True)
        is_index = response.headers.get("content-type", "").startswith(oci.INDEX)
        return self._parsed(response.content) if response.is_success and is_index else None

    def _index(self, name: str) -> ImageIndex | None:
        content = self.manifest(name)
        return None if content is None else self._parsed(content)

    def _parsed(self, content: bytes) -> ImageIndex:
        try:
            return ImageIndex.model_validate_json(content)
        except ValidationError as error:
            raise RegistryError(
                f"the list of what refers to {self.reference} is not an image index: {oci.reason(error)}"
            ) from error

    def _put_blob(self, descriptor: Descriptor, content: Iterable[bytes]) -> None:
        begun = self._once("POST", f"{self._base}/blobs/uploads/", headers={"Content-Length": "0"})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size)}
        upload = httpx.URL(self._location(begun)).copy_merge_params({"digest": descriptor.digest})
        self._once("PUT", str(upload), content=content, headers=headers)

    def _location(self, response: httpx.Response) -> str:
        location = response.headers.get("location")
        if not location:
            raise RegistryError(f"{self.reference.registry} began an upload without saying where")
        return str(response.url.join(location))

    def _send(self, method: str, path: str, *, missing: bool = False, **options: Any) -> httpx.Response:
        """The answer, which is a success, or with `missing` a 404."""
        return self._tried(lambda: self._once(method, f"{self._base}{path}", missing=missing, **options))

    def _tried(self, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, which is called again where the registry is not available."""
        for number in range(_ATTEMPTS - 1):
            try:
                return attempt()
            except UnavailableError as error:
                sleep(2**number / 2 if error.wait is None else error.wait)
        return attempt()

    def _once(self, method: str, url: str, *, missing: bool = False, **options: Any) -> httpx.Response:
        with self._explained():
            response = self._http.request(method, url, **options)
        if response.is_success or (missing and response.status_code == httpx.codes.NOT_FOUND):
            return response
        raise self._refused(response)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"the connection to {self.reference.registry} failed: {error or type(error).__name__}; "
                "check the name and the network, and try again: what has arrived is kept"
            ) from error

    def _refused(self, response: httpx.Response) -> RegistryError:
        host, status = self.reference.registry, response.status_code
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            verb = "read" if response.request.method in ("GET", "HEAD") else "write to"
            return RegistryError(
                f"{host} does not let you {verb} {self.reference.repository} (HTTP {status}): "
                f"log in with docker login {host}, or ask its owner for the right"
            )
        if status == httpx.codes.NOT_FOUND:
            return RegistryError(f"{self.reference} is not in the registry (HTTP 404): check its name and tag")
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return RegistryError(f"{self.reference} is damaged: a blob ends before it should; push the engine again")
        text = f"{host} answered HTTP {status} to {response.request.method}{_said(response)}"
        return UnavailableError(f"{text}; try again later", _wait(response)) if status in _BUSY else RegistryError(text)


def _is_plain(host: str) -> bool:
    """Whether the registry speaks plain HTTP: one on this machine, as for Docker, or one that the user lists."""
    if host in os.environ.get(PLAIN_HTTP_VARIABLE, "").split(","):
        return True
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _referrers_tag(digest: str) -> str:
    return digest.replace(":", "-")


def _wait(response: httpx.Response) -> float | None:
    """The seconds that the registry asks for, within reason."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), 30.0) if asked.isdecimal() else None


def _said(response: httpx.Response) -> str:
    """The registry's own words (distribution specification, "Error Codes")."""
    try:
        errors = response.json()["errors"]
        return ": " + "; ".join(str(error.get("message") or error["code"]) for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
