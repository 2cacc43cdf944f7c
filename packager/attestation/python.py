"""What Python's distributions own of an image, by the records that their installer left.

packaging.python.org/specifications/recording-installed-packages and .../core-metadata.
"""

import base64
import csv
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.parser import Parser

from packager.attestation.tree import File, Tree

_METADATA = ".dist-info/METADATA"
_LICENSE = "License :: "
# What python -m venv and uv venv write beside the distributions.
_VENV = re.compile(
    r"pyvenv\.cfg|lib64|\.gitignore|\.lock|CACHEDIR\.TAG|bin/(python|python3|python3\.\d+|𝜋thon"
    r"|activate|activate\.(csh|fish|nu|bat|ps1)|Activate\.ps1|activate_this\.py|deactivate\.bat|pydoc\.bat)"
    r"|(lib/python3\.\d+/site-packages/)(_virtualenv\.(py|pth))"
)
_VERSION = re.compile(r'#define\s+PY_VERSION\s+"([^"]+)"')


@dataclass(frozen=True)
class Distribution:
    """`licenses` as the distribution puts them: SPDX expressions, names, or classifiers' last words."""

    name: str
    version: str
    summary: str = ""
    licenses: tuple[str, ...] = ()
    record: str = field(default="", compare=False)


@dataclass(frozen=True)
class Interpreter:
    """A CPython that no package of the system owns: `prefix` such as "usr/local", `version` as far as it is known."""

    prefix: str
    series: str
    version: str


def distributions(tree: Tree, taken: set[str]) -> list[Distribution]:
    """Those whose metadata is not among the files `taken`: they are part of what took it."""
    found = [_distribution(tree, path) for path in tree.texts if path.endswith(_METADATA) and path not in taken]
    return sorted(found, key=lambda one: (one.name, one.version, one.record))


def owned(tree: Tree, distribution: Distribution) -> Iterator[str]:
    """Files that the RECORD has with the sha256 that they have, and the bytecode of those."""
    folder = posixpath.dirname(posixpath.dirname(distribution.record))
    for row in csv.reader(tree.text(distribution.record).splitlines()):
        if not row:
            continue
        path = tree.resolve(posixpath.normpath(posixpath.join(folder, row[0])).lstrip("/"))
        file = tree.files.get(path)
        if file and _same(file, row[1] if len(row) > 1 else ""):
            yield path


def bytecode(tree: Tree, sources: set[str]) -> Iterator[str]:
    """The .pyc files, in the folders that CPython looks in, of `sources` that are in the image.

    By name: only the Python that wrote one can tell whether it is the source's.
    """
    for path in tree.files:
        folder, name = posixpath.split(path)
        if name.endswith(".pyc") and posixpath.basename(folder) == "__pycache__":
            source = posixpath.join(posixpath.dirname(folder), name.partition(".")[0] + ".py")
            if source in sources:
                yield path


def venvs(tree: Tree) -> list[str]:
    """Folders of virtual environments, each with a slash at its end."""
    return sorted(path.removesuffix("pyvenv.cfg") for path in tree.texts if posixpath.basename(path) == "pyvenv.cfg")


def is_scaffold(path: str, folder: str) -> bool:
    """Whether that is what a new environment has in `folder`, before anything is installed."""
    return path.startswith(folder) and _VENV.fullmatch(path.removeprefix(folder)) is not None


def interpreters(tree: Tree, taken: set[str]) -> list[Interpreter]:
    """Those built from source, as in Docker's official images: lib/python3.X/os.py that nobody owns."""
    found = []
    for path in tree.files:
        if path not in taken and (match := re.fullmatch(r"(.+)/lib/python(3\.\d+)/os\.py", path)):
            prefix, series = match.groups()
            header = tree.text(f"{prefix}/include/python{series}/patchlevel.h")
            version = _VERSION.search(header)
            found.append(Interpreter(prefix, series, version[1] if version else series))
    return sorted(found, key=lambda one: one.prefix)


def is_interpreter(path: str, interpreter: Interpreter) -> bool:
    """Whether `make install` puts that path there."""
    series = re.escape(interpreter.series)
    return path.startswith(f"{interpreter.prefix}/") and bool(
        re.fullmatch(
            rf"lib/python{series}/(?!site-packages/).+|lib/python{series}/site-packages/README\.txt"
            rf"|lib/libpython(3|{series})\.so(\.1\.0)?|lib/pkgconfig/python.*\.pc|include/python{series}/.+"
            rf"|bin/(python|python3|python{series}|python3?(-config|{series}-config)|idle3?({series})?|pydoc3?({series})?"
            rf"|idle|pydoc|2to3(-{series})?)|share/man/man1/python.*",
            path.removeprefix(f"{interpreter.prefix}/"),
        )
    )


def _distribution(tree: Tree, path: str) -> Distribution:
    fields = Parser().parsestr(tree.text(path))
    classifiers = [line for line in fields.get_all("Classifier", []) if line.startswith(_LICENSE)]
    if expression := fields.get("License-Expression"):
        licenses = [expression]
    elif classifiers:
        licenses = [line.rpartition(" :: ")[2] for line in classifiers]
    else:  # some put the whole text there
        licenses = [line for line in fields.get("License", "").strip().splitlines()[:1] if line]
    record = path.removesuffix("METADATA") + "RECORD"
    summary = " ".join(fields.get("Summary", "").split())
    return Distribution(fields["Name"], fields["Version"], summary, tuple(sorted(set(licenses))), record)


def _same(file: File, recorded: str) -> bool:
    algorithm, _, digest = recorded.partition("=")
    if algorithm != "sha256":
        return True  # RECORD itself has none, nor has bytecode
    return base64.urlsafe_b64encode(bytes.fromhex(file.sha256)).rstrip(b"=").decode() == digest
