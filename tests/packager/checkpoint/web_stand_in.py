"""A web server on loopback with one file, at /model.tar.gz; what it was asked is in `ranges`."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.packager.checkpoint import loopback


@dataclass
class Web:
    """`breaks` counts how often an answer stops half way; `ranged` and `tagged` are whether it knows Range and ETag."""

    content: bytes
    url: str = ""
    status: int | None = None
    ranged: bool = True
    tagged: bool = True
    breaks: int = 0
    ranges: list[str | None] = field(default_factory=list)
    sent: int = 0

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha1(self.content).hexdigest()}"'


@contextmanager
def serving(content: bytes) -> Iterator[Web]:
    web = Web(content)

    class Handler(_Handler):
        state = web

    with loopback.serving(Handler) as url:
        web.url = f"{url}/model.tar.gz?signature=secret"
        yield web


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Web

    def do_GET(self) -> None:
        web, wanted = self.state, self.headers.get("Range")
        web.ranges.append(wanted)
        if web.status:
            return self._start(web.status, 0)
        first, last = 0, len(web.content) - 1
        condition = self.headers.get("If-Range")
        partial = web.ranged and wanted is not None and condition in (None, web.tag)
        if partial and wanted:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), int(end or last)
        body = web.content[first : last + 1]
        self._start(206 if partial else 200, len(body), first)
        if web.breaks and len(body) > 1:
            web.breaks -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        try:
            self.wfile.write(body)
        except ConnectionError:  # the client wanted the headers only
            return None
        web.sent += len(body)
        return None

    def log_message(self, *args: object) -> None:
        pass

    def _start(self, status: int, length: int, first: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if self.state.tagged:
            self.send_header("ETag", self.state.tag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + length - 1}/{len(self.state.content)}")
        self.end_headers()
