"""What Debian's packages own of an image, by dpkg's own records (dpkg-query(1), deb-md5sums(5), dpkg-divert(1))."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser

from packager.attestation.tree import Tree

_INFO, _STATUS, _DIVERSIONS = "var/lib/dpkg/info", "var/lib/dpkg/status", "var/lib/dpkg/diversions"


@dataclass(frozen=True)
class Package:
    """`source` is the name and version of the source package where they are others."""

    name: str
    version: str
    architecture: str
    source: str | None = None


@dataclass(frozen=True)
class System:
    """`distribution` is os-release's ID, such as "debian", and `codename` its VERSION_CODENAME."""

    distribution: str
    codename: str
    packages: tuple[Package, ...]


def system(tree: Tree) -> System:
    """What is installed; in a distroless image each package has a file in status.d."""
    release = _assignments(tree.text("etc/os-release") or tree.text("usr/lib/os-release"))
    records = [tree.text(path) for path in sorted(tree.texts) if path == _STATUS or path.startswith(f"{_STATUS}.d/")]
    found = {package for text in records for package in _packages(text)}
    return System(
        release.get("ID", "linux"),
        release.get("VERSION_CODENAME", ""),
        tuple(sorted(found, key=lambda package: (package.name, package.architecture))),
    )


def owned(tree: Tree, system: System) -> set[str]:
    """The files that a package owns: it lists them, and where it has their md5 they still have that content."""
    diverted = _diversions(tree)
    mine: set[str] = set()
    for package in system.packages:
        records = [f"{_INFO}/{package.name}:{package.architecture}", f"{_INFO}/{package.name}"]
        base = next((record for record in records if f"{record}.list" in tree.texts), records[-1])
        sums = {
            path: md5 for md5, _, path in (line.partition("  ") for line in tree.text(f"{base}.md5sums").splitlines())
        }
        for line in tree.text(f"{base}.list").splitlines():
            listed = line.lstrip("/")
            other, owner = diverted.get(listed, (listed, package.name))
            path = tree.resolve(other if owner != package.name else listed)
            file = tree.files.get(path)
            if file and sums.get(listed, file.md5) == file.md5:
                mine.add(path)
    return mine


def _packages(text: str) -> Iterator[Package]:
    for paragraph in text.split("\n\n"):
        fields = Parser().parsestr(paragraph)
        if "Package" in fields and fields.get("Status", "install ok installed").endswith(" installed"):
            yield Package(fields["Package"], fields["Version"], fields.get("Architecture", "all"), _source(fields))


def _source(fields: Message) -> str | None:
    """ "glibc" or, of another version than the package's own, "glibc (2.36-9)": as name@version."""
    name, _, version = fields.get("Source", "").partition(" ")
    return f"{name}@{version.strip('()') or fields['Version']}" if name else None


def _diversions(tree: Tree) -> dict[str, tuple[str, str]]:
    """Where a path went, and the one package whose file stays there."""
    lines = tree.text(_DIVERSIONS).splitlines()
    return {
        path.lstrip("/"): (posixpath.normpath(other).lstrip("/"), owner)
        for path, other, owner in zip(lines[::3], lines[1::3], lines[2::3], strict=False)
    }


def _assignments(text: str) -> dict[str, str]:
    """os-release(5), as far as names and versions need it."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
