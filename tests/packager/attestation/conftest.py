"""A registry in this process, with the referrers API that the testbed's real one lacks; and keys."""

import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from runtime.registry import oci
from runtime.registry.client import Registry
from runtime.registry.reference import Reference

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Store(ThreadingHTTPServer):
    """`blobs` and `manifests` by digest; the latter by tag, too."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}

    @property
    def reference(self) -> Reference:
        return Reference.parse(f"127.0.0.1:{self.server_port}/models/tiny:1")

    def referrers(self, digest: str) -> list[dict[str, object]]:
        found = []
        for name, (media_type, content) in sorted(self.manifests.items()):
            manifest = json.loads(content)
            if name.startswith("sha256:") and manifest.get("subject", {}).get("digest") == digest:
                entry = {"mediaType": media_type, "digest": name, "size": len(content)}
                found.append({**entry, "artifactType": manifest["artifactType"]})
        return found


class _Handler(BaseHTTPRequestHandler):
    server: Store

    def log_message(self, format: str, *args: object) -> None: ...

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if "/referrers/" in self.path:
            index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": self.server.referrers(name)}
            return self._answer(200, json.dumps(index).encode(), Content_Type=oci.INDEX)
        if "/manifests/" in self.path and name in self.server.manifests:
            media_type, content = self.server.manifests[name]
            return self._answer(200, content, Content_Type=media_type)
        if "/blobs/" in self.path and name in self.server.blobs:
            return self._answer(200, self.server.blobs[name])
        return self._answer(404)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        name = str(len(self.server.uploads))
        self.server.uploads[name] = b""
        self._answer(202, Location=f"{self.path}{name}")

    def do_PATCH(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.uploads[name] += self._body()
        self._answer(202, Location=self.path)

    def do_PUT(self) -> None:
        if match := re.fullmatch(r".*/uploads/(\d+)\?digest=(.+)", self.path):
            content = self.server.uploads.pop(match[1])
            self.server.blobs[match[2].replace("%3A", ":")] = content
        else:
            content = self._body()
            stored = (self.headers["Content-Type"], content)
            self.server.manifests[f"sha256:{hashlib.sha256(content).hexdigest()}"] = stored
            self.server.manifests[self.path.rpartition("/")[2]] = stored
        self._answer(201)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


@pytest.fixture
def store() -> Iterator[Store]:
    server = Store()
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def registry(store: Store) -> Iterator[Registry]:
    with Registry(store.reference) as registry:
        yield registry


def write_keys(folder: Path, key: PrivateKey, password: str = "") -> tuple[Path, Path]:
    """A private and a public key, in PEM."""
    folder.mkdir(parents=True, exist_ok=True)
    sealed: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        sealed = serialization.BestAvailableEncryption(password.encode())
    private, public = folder / "key.pem", folder / "key.pub.pem"
    pkcs8 = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, sealed))
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, info))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path / "keys", ed25519.Ed25519PrivateKey.generate())
