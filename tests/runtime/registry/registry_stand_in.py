"""A registry in a thread: as much of the specification as pushing and pulling need, with faults to order."""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.packager.checkpoint import loopback

USER, PASSWORD, IDENTITY = "me", "open sesame", "an identity token"


@dataclass
class Web:
    """What it holds, what it was asked, and what it does wrong.

    `auth`: "basic" or "bearer"; a bearer token is good for `token_uses` requests. `busy`: statuses, with their
    Retry-After, to answer the next requests to paths with `busy_path` in them with. `cut`: how many of the next blobs
    of more than 1000 bytes end half way. `elsewhere`: the address to which blobs are redirected; `uploads`: that to
    which they are sent.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    auth: str | None = None
    token_uses: int = 10**9
    busy: list[tuple[int, str | None]] = field(default_factory=list)
    busy_path: str = ""
    cut: int = 0
    ranges: bool = True
    elsewhere: str | None = None
    uploads: str = ""
    referrers: bool = True
    address: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)  # bytes of each blob
    tokens: dict[str, tuple[str, int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, content: bytes) -> str:
        """A blob's digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return digest

    def count(self, method: str, part: str) -> int:
        """Requests of a method whose path holds `part`."""
        return sum(asked == method and part in path for asked, path in self.asked)


@contextmanager
def registry(**faults: Any) -> Iterator[Web]:
    web = Web(**faults)
    handler = type("Handler", (_Handler,), {"web": web})
    with loopback.serving(handler) as url:
        web.address = url.removeprefix("http://")
        yield web


class _Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # a body would wait 40 ms for its headers to be acknowledged
    web: Web
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        web, url = self.web, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with web.lock:
            web.asked.append((self.command, self.path))
            web.authorizations.append(self.headers.get("Authorization", ""))
            busy = web.busy.pop(0) if web.busy and web.busy_path in self.path else None
        if busy:
            return self._send(busy[0], headers={"Retry-After": busy[1]} if busy[1] else {})
        if url.path == "/token":
            return self._token(parse_qs(url.query) or parse_qs(body.decode()))
        if not self._allowed():
            return self._challenge()
        if match := re.fullmatch(r"/v2/.+/blobs/(sha256:[0-9a-f]+)", url.path):
            return self._blob(match[1])
        if match := re.fullmatch(r"/v2/.+/manifests/(.+)", url.path):
            return self._manifest(match[1], body)
        if match := re.fullmatch(r"/v2/.+/referrers/(.+)", url.path):
            return self._referrers(match[1])
        if url.path.endswith("/blobs/uploads/"):
            return self._send(202, headers={"Location": f"{web.uploads}{url.path}one?state=x"})
        return self._upload(parse_qs(url.query)["digest"][0], body)

    def _upload(self, digest: str, body: bytes) -> None:
        if self.web.put(body) != digest:
            del self.web.blobs[f"sha256:{hashlib.sha256(body).hexdigest()}"]
            return self._error(400, "provided digest did not match uploaded content")
        return self._send(201)

    def _blob(self, digest: str) -> None:
        web = self.web
        if digest not in web.blobs:
            return self._error(404, "blob unknown to registry")
        if web.elsewhere and self.command == "GET":
            return self._send(307, headers={"Location": f"{web.elsewhere}{self.path}"})
        content, status, headers = web.blobs[digest], 200, {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and web.ranges and int(wanted[1]) >= len(content):
            return self._error(416, "range not satisfiable")
        if wanted and web.ranges:
            status, headers = 206, {"Content-Range": f"bytes {wanted[1]}-{len(content) - 1}/{len(content)}"}
            content = content[int(wanted[1]) :]
        with web.lock:
            cut = web.cut > 0 and self.command == "GET" and len(content) > 1000
            web.cut -= cut
        return self._send(status, content, headers, len(content) // 2 if cut else None, digest)

    def _manifest(self, name: str, body: bytes) -> None:
        web = self.web
        if self.command == "PUT":
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            web.manifests[name] = web.manifests[digest] = (self.headers["Content-Type"], body)
            return self._send(201, headers={"Location": f"/v2/x/manifests/{digest}"})
        if name not in web.manifests:
            return self._error(404, "manifest unknown")
        kind, content = web.manifests[name]
        return self._send(200, content, {"Content-Type": kind})

    def _referrers(self, digest: str) -> None:
        if not self.web.referrers:
            return self._error(404, "page not found")
        found = []
        for name, (kind, content) in self.web.manifests.items():
            said = json.loads(content)
            if name.startswith("sha256:") and (said.get("subject") or {}).get("digest") == digest:
                entry = {"mediaType": kind, "digest": name, "size": len(content)}
                found.append(entry | {"artifactType": said.get("artifactType"), "annotations": said.get("annotations")})
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": found}
        return self._send(200, json.dumps(index).encode(), {"Content-Type": index["mediaType"]})

    def _allowed(self) -> bool:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        if self.web.auth == "basic":
            return scheme == "Basic" and base64.b64decode(given).decode() == f"{USER}:{PASSWORD}"
        if self.web.auth == "bearer":
            writes = self.command in ("POST", "PUT")
            scope, left = self.web.tokens.get(given, ("", 0))
            self.web.tokens[given] = (scope, left - 1)
            return left > 0 and ("push" in scope or not writes)
        return True

    def _challenge(self) -> None:
        repository = self.path.split("/")[2]
        actions = "pull,push" if self.command in ("POST", "PUT") else "pull"
        asks = {
            "basic": 'Basic realm="here"',
            "bearer": f'Bearer realm="http://{self.web.address}/token",service="here",'
            f'scope="repository:{repository}:{actions}"',
        }
        self._error(401, "authentication required", {"WWW-Authenticate": asks[str(self.web.auth)]})

    def _token(self, asked: dict[str, list[str]]) -> None:
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        known = self.headers.get("Authorization") == f"Basic {basic}"
        if not known and asked.get("refresh_token") != [IDENTITY]:
            return self._error(401, "who are you")
        token = f"token-{len(self.web.tokens)}"
        self.web.tokens[token] = (asked["scope"][0], self.web.token_uses)
        return self._send(200, json.dumps({"token": token}).encode())

    def _error(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps({"errors": [{"code": "X", "message": message}]}).encode(), headers or {})

    def _send(
        self,
        status: int,
        content: bytes = b"",
        headers: dict[str, Any] | None = None,
        length: int | None = None,
        blob: str = "",
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:length])
            self.web.sent[blob] += len(content[:length])
        if length is not None:
            self.close_connection = True
