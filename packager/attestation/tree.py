"""What an image holds, read from a tar without unpacking it: each file's checksum, and the few that say whose it is."""

import hashlib
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO

# What packages say of themselves; nothing else of an image is kept in memory.
_SAYING = re.compile(
    r"var/lib/dpkg/(status|diversions|status\.d/.+|info/.+\.(list|md5sums))"
    r"|(etc|usr/lib)/os-release"
    r"|.+\.dist-info/(METADATA|RECORD)"
    r"|(.+/)?(pyvenv\.cfg|engine\.json|patchlevel\.h)"
)
# Docker and podman put their own over these, also in a container that never ran.
_MOUNTED = re.compile(r"\.dockerenv|run/\.containerenv|etc/(hostname|hosts|mtab|resolv\.conf)|(dev|proc|sys)/.*")
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_CHUNK = 2**20
_MOST_LINKS = 40  # as Linux itself, path_resolution(7)


@dataclass(frozen=True)
class File:
    """`sha256` and `md5` are hex, and empty for what has no content; `link` is where a symbolic link points."""

    size: int = 0
    sha256: str = ""
    md5: str = ""
    link: str | None = None


@dataclass(frozen=True)
class Tree:
    """Everything but folders, by path without the leading slash; `texts` has the contents that say whose a file is."""

    files: dict[str, File] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)

    def text(self, path: str) -> str:
        """The content of a file that says whose others are; "" where there is none."""
        return self.texts.get(path, b"").decode(errors="replace")

    def resolve(self, path: str) -> str:
        """The path with each folder that is a link followed: "lib/x" is "usr/lib/x" where /lib points there."""
        for _ in range(_MOST_LINKS):
            folder = next((part for part in _folders(path) if part in self._links), None)
            if folder is None:
                break
            target = posixpath.join("/", posixpath.dirname(folder), self._links[folder], path[len(folder) + 1 :])
            path = posixpath.normpath(target).lstrip("/")
        return path

    def reach(self, folders: Iterable[str]) -> tuple[str, ...]:
        """These folders, and those that links in them lead to, and so on; each as it is without links."""
        found: list[str] = []
        wanted = [self._folder(folder) for folder in folders]
        while wanted:
            folder = wanted.pop()
            if folder and folder not in found and folder not in self.files:
                found.append(folder)
                wanted += [self._folder(path) for path in self._links if path.startswith(f"{folder}/")]
        return tuple(found)

    def _folder(self, path: str) -> str:
        return posixpath.dirname(self.resolve(posixpath.join(path.strip("/"), "x")))

    @cached_property
    def _links(self) -> dict[str, str]:
        return {path: file.link for path, file in self.files.items() if file.link is not None}


def read(stream: IO[bytes], advance: Callable[[int], object] = lambda count: None) -> Tree:
    """The tree of a tar, plain or gzipped, which is read once and to its end. Raises tarfile.TarError.

    `advance` is called with each file's size in bytes.
    """
    tree = Tree()
    with tarfile.open(fileobj=stream, mode="r|*", bufsize=_CHUNK) as tar:
        for member in tar:
            path = posixpath.normpath(member.name).lstrip("/")
            if not member.isdir() and not _MOUNTED.fullmatch(path):
                _add(tree, path, tar, member)
                advance(member.size)
    return tree


def stack(layers: Iterable[Tree]) -> Tree:
    """Layers one over the other, lowest first (OCI image specification 1.1, layer.md, "Whiteouts")."""
    files: dict[str, File] = {}
    texts: dict[str, bytes] = {}
    for layer in layers:
        covered = {_covered(path) for path in layer.files}
        for path in [path for path in files if covered.intersection([path, *_folders(path)])]:
            del files[path]
            texts.pop(path, None)
        files |= {path: file for path, file in layer.files.items() if _covered(path) == path}
        texts |= layer.texts
    return Tree(files, texts)


def _covered(path: str) -> str:
    """What a layer's file takes away from the layers below: what has its name, or what its name says."""
    folder, name = posixpath.split(path)
    if name == _OPAQUE:
        return folder
    return posixpath.join(folder, name.removeprefix(_WHITEOUT)) if name.startswith(_WHITEOUT) else path


def _add(tree: Tree, path: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if member.islnk():  # a second name of a file that came before
        first = posixpath.normpath(member.linkname).lstrip("/")
        tree.files[path] = tree.files.get(first, File())
        if _SAYING.fullmatch(path) and first in tree.texts:
            tree.texts[path] = tree.texts[first]
    elif content := tar.extractfile(member) if member.isfile() else None:
        tree.files[path], kept = _read(content, keep=_SAYING.fullmatch(path) is not None)
        if kept is not None:
            tree.texts[path] = kept
    else:
        tree.files[path] = File(link=member.linkname if member.issym() else None)


def _read(content: IO[bytes], keep: bool) -> tuple[File, bytes | None]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    size, kept = 0, bytearray()
    while chunk := content.read(_CHUNK):
        size += len(chunk)
        sha256.update(chunk)
        md5.update(chunk)
        if keep:
            kept += chunk
    return File(size, sha256.hexdigest(), md5.hexdigest()), bytes(kept) if keep else None


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
