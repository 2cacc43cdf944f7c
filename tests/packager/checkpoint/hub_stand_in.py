"""A stand-in for the Hugging Face Hub on loopback: no test here talks to the real one.

It answers the routes that huggingface_hub's downloads call, for one repository `org/tiny` at one commit, with the
headers and error codes that the library reads. What it was asked is in `requests`.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.packager.checkpoint import loopback

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`token` is wanted where it is set; `breaks` counts how often a file's download stops half way."""

    folder: Path
    url: str = ""
    token: str | None = None
    gated: bool = False
    status: int | None = None
    breaks: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def asked(self, method: str, path: str) -> list[str | None]:
        """The Range header of each request for a path that ends so."""
        return [range_ for how, where, range_ in self.requests if how == method and where.endswith(path)]


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Serves the checkpoint in `folder` as org/tiny, branch main, tag v1."""
    hub = Hub(folder)

    class Handler(_Handler):
        state = hub

    with loopback.serving(Handler) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append((self.command, path, self.headers.get("Range")))
        if self.state.status:
            return self._error(self.state.status, None)
        if not path.startswith(("/org/tiny/", "/api/models/org/tiny")):
            return self._error(401, "RepoNotFound")
        if self.state.token and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            return self._error(403 if self.state.gated else 401, "GatedRepo" if self.state.gated else "RepoNotFound")
        if path.startswith("/api/models/org/tiny/tree/"):
            return self._send(json.dumps(self._tree()).encode(), "application/json", body)
        if path.startswith("/org/tiny/resolve/"):
            revision, _, name = path.removeprefix("/org/tiny/resolve/").partition("/")
            return self._file(revision, name, body)
        return self._error(404, None)

    def _tree(self) -> list[dict[str, object]]:
        files = (path for path in sorted(self.state.folder.rglob("*")) if path.is_file())
        return [
            {
                "type": "file",
                "path": path.relative_to(self.state.folder).as_posix(),
                "size": path.stat().st_size,
                "oid": _etag(path),
            }
            for path in files
        ]

    def _file(self, revision: str, name: str, body: bool) -> None:
        if revision not in ("main", "v1", COMMIT):
            self._error(404, "RevisionNotFound")
            return
        path = self.state.folder / name
        if not path.is_file():
            self._error(404, "EntryNotFound")
            return
        content, status = path.read_bytes(), 200
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if range_ := self.headers.get("Range"):
            start = int(range_.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        if body and self.state.breaks.get(name):
            self.state.breaks[name] -= 1
            self._start(status, {**headers, "Content-Length": str(len(content))})
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self._send(content, "application/octet-stream", body, headers, status)

    def _send(
        self, content: bytes, kind: str, body: bool, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        self._start(status, {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})})
        if body:
            self.wfile.write(content)

    def _error(self, status: int, code: str | None) -> None:
        self._start(status, {"Content-Length": "0", **({"X-Error-Code": code} if code else {})})

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
