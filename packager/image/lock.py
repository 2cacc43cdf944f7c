"""requirements.lock, and the compiler's: all that an image installs, with its hashes, resolved once and kept."""

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from packager import progress, swap
from packager.errors import ConfigError, TrtpackError

FILE_NAME, COMPILER = "requirements.lock", "compiler.lock"
_FIRST = "# Made by trtpack build: all that the image installs, with hashes. Commit it, and the next build is the same."
# The names that uv gives platforms; wheels for glibc 2.28 run on every Debian since 10.
_PLATFORMS = {"linux/amd64": "x86_64-manylinux_2_28", "linux/arm64": "aarch64-manylinux_2_28"}
_INDEX = re.compile(r"(-i|--index-url|--extra-index-url)[ =]")
_PIN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*==[^\s;]+", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
# What uv says where no index answers (its own texts, and those of the HTTP library beneath it).
_UNREACHABLE = ("error sending request", "Failed to fetch", "network was disabled")
# torch asks for it to compile extensions with, which an image cannot.
_EXCLUDED = "setuptools"


@dataclass(frozen=True)
class Wanted:
    """What to lock: `lines` are requirements, `file` the package's own requirements_file with its `text`.

    `python` is such as 3.13, `platform` such as linux/amd64. `cpu`: torch without CUDA. `name` is the lock's own;
    `kept` the text of another, whose releases this one is to have; `build` the command that makes it.
    """

    lines: str
    python: str
    platform: str
    cpu: bool
    file: str | None = None
    text: str = ""
    name: str = FILE_NAME
    kept: str = ""
    build: str = "trtpack build"

    @property
    def again(self) -> str:
        return f"Make it anew with: {self.build} --upgrade"

    @property
    def origin(self) -> str:
        """The head of the lock, which says what it was made from."""
        torch = ", torch without CUDA" if self.cpu else ""
        asked = [*self.lines.splitlines(), *self.text.splitlines()]
        return "".join(
            f"{line}\n"
            for line in (
                _FIRST,
                f"# {self.again}",
                f"# For Python {self.python} on {self.platform}{torch}, from:",
                *(f"#   {line}" for line in asked if line.strip() and not line.lstrip().startswith("#")),
                *([f"# in the releases of sha256 {_sha256(self.kept)}"] if self.kept else []),
            )
        )


def locked(package: Path, wanted: Wanted, *, wheels: Path | None = None, upgrade: bool = False) -> str:
    """The text of the package's lock, which is made where there is none or what it was made from changed.

    A lock made again keeps the versions that still fit, with `upgrade` none. `wheels` is a folder to resolve from in
    place of an index. Raises ConfigError for a lock that is not ours as it stands, and for requirements that cannot
    be met or have no hash; TrtpackError where no index answers.
    """
    path = package / wanted.name
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if old and not old.startswith(_FIRST):
        raise ConfigError(
            f"{path} was not made by trtpack", "Move it away; requirements_file in config.yaml can name it."
        )
    if old and not upgrade:
        if not _is_whole(old):
            raise ConfigError(f"{path} was changed by hand", f"Pin versions in config.yaml. {wanted.again}")
        if old.startswith(wanted.origin + _SEAL):
            return old
        progress.note(f"note: {path} is made again: what it was made from changed")
    with progress.task("Resolving the image's requirements"):
        text = _sealed(wanted.origin, _compiled(package, wanted, "" if upgrade else old, wheels))
    swap.write(path, text.encode())
    return text


_SEAL = "# sha256 of the rest: "


def _sealed(origin: str, pins: str) -> str:
    return f"{origin}{_SEAL}{_sha256(pins)}\n{pins}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_whole(text: str) -> bool:
    origin, _, rest = text.partition(_SEAL)
    return text == _sealed(origin, rest.partition("\n")[2])


def _compiled(package: Path, wanted: Wanted, old: str, wheels: Path | None) -> str:
    """The pins, after the indexes that the requirements_file names. uv takes its preferences from the old lock."""
    from uv import find_uv_bin

    with TemporaryDirectory() as folder:
        out, excluded, kept = (Path(folder) / name for name in (FILE_NAME, "excluded.txt", "kept.txt"))
        out.write_text(old, encoding="utf-8")
        excluded.write_text("" if _asks_for_excluded(wanted) else _EXCLUDED, encoding="utf-8")
        kept.write_text("\n".join(_PIN.findall(wanted.kept)), encoding="utf-8")
        command = [find_uv_bin(), "pip", "compile", "-", *([wanted.file] if wanted.file else [])]
        command += ["--quiet", "--color=never", "--no-header", "--generate-hashes", f"--excludes={excluded}"]
        command += [f"--constraints={kept}"]
        command += [f"--python={sys.executable}", f"--python-version={wanted.python}"]
        command += [f"--python-platform={_uv_platform(wanted.platform)}", f"--output-file={out}"]
        command += _sources(wanted, wheels)
        done = subprocess.run(command, input=wanted.lines, capture_output=True, text=True, check=False, cwd=package)
        if done.returncode:
            raise _failure(done.stderr, wheels)
        pins = out.read_text(encoding="utf-8")
    _check_hashes(pins)
    return "".join(f"{line}\n" for line in wanted.text.splitlines() if _INDEX.match(line)) + pins


def _sources(wanted: Wanted, wheels: Path | None) -> list[str]:
    if wheels:
        return ["--no-index", f"--find-links={wheels.resolve()}"]
    folders = os.environ.get("UV_FIND_LINKS", "").split(",")
    at_hand = any(next(Path(folder).glob("torch-*.whl"), None) for folder in folders if folder)
    return ["--torch-backend=cpu"] if wanted.cpu and not at_hand else []


def _asks_for_excluded(wanted: Wanted) -> bool:
    names = (_NAME.match(line) for line in [*wanted.lines.splitlines(), *wanted.text.splitlines()])
    return any(name and name[0].lower() == _EXCLUDED for name in names)


def _uv_platform(platform: str) -> str:
    if platform not in _PLATFORMS:
        raise ConfigError(f"--platform: no image is built for {platform}", f"Known: {', '.join(_PLATFORMS)}")
    return _PLATFORMS[platform]


def _failure(said: str, wheels: Path | None) -> TrtpackError:
    text = " ".join(said.removeprefix("error: ").split())
    if any(sign in said for sign in _UNREACHABLE):
        return TrtpackError(
            f"no package index answers: {text}",
            "UV_DEFAULT_INDEX names another; a folder of wheels takes its place with: --wheels DIR",
        )
    where = f" from the wheels in {wheels}" if wheels else ""
    return ConfigError(f"the requirements cannot be met{where}: {text}")


def _check_hashes(pins: str) -> None:
    for entry in re.split(r"\n(?![ #]|$)", pins):
        if entry.strip() and not entry.startswith("#") and "--hash=" not in entry:
            raise ConfigError(
                f"requirements: {entry.split()[0]} has no hash to hold it to: {entry.splitlines()[0]}",
                "Name a release of a package index, or put the code into packages/.",
            )
