"""A file on a web server, as Truss's REMOTE_URL names one: often an address that is signed for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import httpx

from packager.checkpoint.remote import RemoteFile
from packager.errors import TrtpackError

_SECONDS = 60.0  # without a byte


def file(url: str, shown: str) -> RemoteFile:
    """What the server says of the file. Raises TrtpackError.

    Asked with GET and for one byte: a signature is for one method, and HEAD is another.
    """
    with _answer(url, shown, {"Range": "bytes=0-0"}) as response:
        headers, resumable = response.headers, response.status_code == httpx.codes.PARTIAL_CONTENT
    length = headers.get("Content-Range", "").rpartition("/")[2] if resumable else headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    tag = headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    name = PurePosixPath(unquote(urlsplit(url).path)).name.strip(".") or "checkpoint"
    return RemoteFile(name, size, version, partial(_read, url, shown, version if resumable else None))


@contextmanager
def _read(url: str, shown: str, version: str | None, offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """From `offset` on if the file still has that version, else from its beginning."""
    headers = {"Range": f"bytes={offset}-", "If-Range": version} if offset and version else {}
    with _answer(url, shown, headers) as response:
        start = offset if response.status_code == httpx.codes.PARTIAL_CONTENT else 0
        yield start, response.iter_raw()


@contextmanager
def _answer(url: str, shown: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    headers = {"Accept-Encoding": "identity", **headers}
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=_SECONDS) as response:
            response.raise_for_status()
            yield response
    except httpx.HTTPStatusError as error:
        raise TrtpackError(
            f"{shown}: the server answered HTTP {error.response.status_code}",
            "Check the address; one that is signed may have expired: make a new one.",
        ) from error
    except httpx.HTTPError as error:
        raise TrtpackError(
            f"{shown}: the connection failed: {error}", "Check the network, and try again; what has arrived is kept."
        ) from error
