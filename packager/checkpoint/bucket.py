"""A folder, or a .gguf file, in a bucket of Google Cloud Storage or S3, through fsspec.

Credentials, region and endpoint are found as Google's and Amazon's own tools find them. FSSPEC_S3_ANON=true and
FSSPEC_GCS_TOKEN=anon ask for a public bucket without any (fsspec's documentation, "Configuration").
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import fsspec  # type: ignore[import-untyped]

from packager.checkpoint.folder import CONFIGS, UNWANTED, WANTED
from packager.checkpoint.remote import RemoteFile
from packager.errors import TrtpackError

_CHUNK = 8 << 20  # bytes
_LOGIN = {
    "gs": "gcloud auth application-default login",
    "s3": "aws configure, or AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}


def files(source: str) -> list[RemoteFile]:
    """The files that a checkpoint, or an adapter, is read from, config.json first. Raises TrtpackError."""
    with _explained(source):
        system, path = fsspec.url_to_fs(source)
        found = [system.info(path)] if path.endswith(".gguf") else system.ls(path, detail=True)
        sizes = {info["name"]: info["size"] for info in found if info["type"] == "file"}
        chosen = _chosen(source, list(sizes))
        return [
            RemoteFile(_name(path), sizes[path], system.ukey(path), partial(_read, source, system, path))
            for path in chosen
        ]


def _chosen(source: str, paths: list[str]) -> list[str]:
    if not any(_name(path) in CONFIGS for path in paths):
        ggufs = [path for path in paths if path.endswith(".gguf")]
        if len(ggufs) != 1:
            raise TrtpackError(
                f"{source} holds no config.json", "Name the folder that save_pretrained wrote, or a .gguf file."
            )
        return ggufs
    wanted = [path for path in paths if _is_wanted(_name(path))]
    return sorted(wanted, key=lambda path: (_name(path) != "config.json", path))


def _is_wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WANTED) and not any(fnmatch(name, p) for p in UNWANTED)


def _name(path: str) -> str:
    return PurePosixPath(path).name


@contextmanager
def _read(source: str, system: Any, path: str, offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    with _explained(source):
        file = system.open(path, "rb")
    with file:
        yield offset, _chunks(source, file, offset)


def _chunks(source: str, file: Any, offset: int) -> Iterator[bytes]:
    with _explained(source):
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            yield chunk


@contextmanager
def _explained(source: str) -> Iterator[None]:
    scheme = source.partition("://")[0]
    try:
        yield
    except TrtpackError:
        raise
    except ImportError as error:
        raise TrtpackError(
            f"{source}: {scheme}:// is read with a library that is not installed",
            "Install it with: pip install 'trtpack[cloud]'",
        ) from error
    except FileNotFoundError as error:
        raise TrtpackError(f"{source} does not exist", "Check the bucket and the path.") from error
    except Exception as error:  # Google's, Amazon's and aiohttp's, which share no class
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise TrtpackError(f"{source}: {reason}", f"Log in with: {_LOGIN.get(scheme, scheme)}") from error
