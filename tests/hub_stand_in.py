"""A stand-in for the Hugging Face Hub on loopback that is written to: no test here talks to the real one.

It answers the routes that huggingface_hub calls to make a repository, to commit to it, and to download from it, with
large files through Git LFS. The real Hub has Xet storage beside that, which tests switch off (HF_HUB_DISABLE_XET).
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.packager.checkpoint import loopback

# The Hub's own .gitattributes says by name what goes to LFS.
LARGE = (".safetensors", ".plan")


@dataclass
class Repository:
    """`commits` are all of branch main, each the whole of its files: content, or the sha256 of a large one."""

    private: bool
    commits: list[dict[str, bytes | str]] = field(default_factory=lambda: [{}])

    @property
    def head(self) -> str:
        return self.oid(len(self.commits) - 1)

    def oid(self, index: int) -> str:
        return hashlib.sha1(f"{index}{sorted(self.commits[index])}".encode()).hexdigest()

    def at(self, revision: str) -> dict[str, bytes | str] | None:
        oids = {self.oid(index): files for index, files in enumerate(self.commits)}
        return self.commits[-1] if revision == "main" else oids.get(revision)


@dataclass
class Hub:
    """`large`: what LFS holds, by sha256. `uploads`: the sha256 of each. `refuse`: a path's end, and the answer."""

    url: str = ""
    token: str = "hf_secret"
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)

    def content(self, repo: str, name: str) -> bytes:
        held = self.repositories[repo].commits[-1][name]
        return self.large[held] if isinstance(held, str) else held


@contextmanager
def serving() -> Iterator[Hub]:
    """An empty Hub."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    with loopback.serving(Handler) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 2**16  # headers and body in one packet
    state: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for end, status in self.state.refuse.items():
            if path.endswith(end):
                return self._error(status)
        if path.startswith("/lfs/"):
            sha256 = path.removeprefix("/lfs/")
            self.state.uploads.append(sha256)
            self.state.large[sha256] = body
            return self._json({})
        if self.headers.get("Authorization") != f"Bearer {self.state.token}":
            return self._error(401, "RepoNotFound")
        match path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["api", "validate-yaml"]:
                return self._json({})
            case ["api", "models", org, name, *rest]:
                return self._api(f"{org}/{name}", rest, body)
            case [org, name, "info", "lfs", "objects", "batch"]:
                return self._batch(json.loads(body))
            case [org, name, "resolve", revision, *rest]:
                return self._file(f"{org}/{name}", revision, "/".join(rest))
        return self._error(404)

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        status = 409 if repo in self.state.repositories else 200
        self.state.repositories.setdefault(repo, Repository(asked.get("visibility") == "private"))
        return self._json({"url": f"{self.state.url}/{repo}"}, status)

    def _api(self, repo: str, rest: list[str], body: bytes) -> None:
        held = self.state.repositories.get(repo)
        if held is None:
            return self._error(404, "RepoNotFound")
        revision = rest[1] if len(rest) > 1 else "main"
        files = held.at(revision)
        if files is None:
            return self._error(404, "RevisionNotFound")
        match rest:
            case [] | ["revision", _]:
                oid = held.head if revision == "main" else revision
                siblings = [{"rfilename": name} for name in files]
                return self._json({"id": repo, "sha": oid, "private": held.private, "siblings": siblings})
            case ["tree", *_]:
                return self._json([self._entry(name, content) for name, content in files.items()])
            case ["preupload", _]:
                asked = json.loads(body)["files"]
                return self._json({"files": [_mode(one["path"], files) for one in asked]})
            case ["commit", _]:
                return self._commit(repo, [json.loads(line) for line in body.splitlines()])
        return self._error(404)

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        held = self.state.repositories[repo]
        files = dict(held.commits[-1])
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header" if value.get("parentCommit") not in (None, held.head):
                    return self._error(412)
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in self.state.large:
                        return self._error(400)
                    files[value["path"]] = value["oid"]
                case "deletedFile":
                    del files[value["path"]]
        held.commits.append(files)
        return self._json({"commitUrl": f"{self.state.url}/{repo}/commit/{held.head}", "commitOid": held.head})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            one
            if one["oid"] in self.state.large
            else {**one, "actions": {"upload": {"href": f"{self.state.url}/lfs/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        return self._json({"transfer": "basic", "objects": objects})

    def _entry(self, name: str, content: bytes | str) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "oid": _blob_id(content)}
        if isinstance(content, str):
            size = len(self.state.large[content])
            return {**entry, "size": size, "lfs": {"oid": content, "size": size, "pointerSize": 134}}
        return {**entry, "size": len(content)}

    def _file(self, repo: str, revision: str, name: str) -> None:
        held = self.state.repositories.get(repo)
        files = held.at(revision) if held else None
        if held is None or files is None:
            return self._error(404, "RevisionNotFound" if held else "RepoNotFound")
        if name not in files:
            return self._error(404, "EntryNotFound")
        stored = files[name]
        content = self.state.large[stored] if isinstance(stored, str) else stored
        etag = stored if isinstance(stored, str) else _blob_id(stored)
        commit = held.head if revision == "main" else revision
        if self.command == "GET":
            self.state.downloads.append(name)
        return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def _json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str | None = None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code} if code else {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _mode(path: str, files: dict[str, bytes | str]) -> dict[str, object]:
    held = {"oid": _known(files[path])} if path in files else {}
    return {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False, **held}


def _known(content: bytes | str) -> str:
    return content if isinstance(content, str) else _blob_id(content)


def _blob_id(content: bytes | str) -> str:
    """Git's own of a file's content."""
    data = content if isinstance(content, bytes) else content.encode()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
