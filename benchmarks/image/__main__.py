"""The image of a package: its layers, what a change sends again, and how long it takes to start, as JSON.

    python -m benchmarks.image PACKAGE --registry localhost:5000 --env TRTPACK_DEVICE=cpu --out image.json

Builds with `trtpack build`, pushes to a repository of its own name in that registry, which stays there, and runs the
image with the Docker engine that answers. The package itself is not changed. Wants a quiet machine.
"""

import argparse
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from benchmarks import report
from benchmarks.image.docker import Layer, Pushed, docker, push
from benchmarks.image.start import Start, start

# The build's process looks for the packages there first, and not where trtpack may be installed from.
_ROOT = Path(__file__).parents[2]
_TRTPACK = [sys.executable, "-c", "from packager import main; main()"]
_CHANGES = ("model/model.py", "config.yaml")
PACKAGES = ("trtpack", "torch")


def measured(package: Path, repository: str, given: argparse.Namespace) -> dict[str, Any]:
    """Builds, pushes, changes and starts; every size in bytes, every time in seconds."""
    tags = [f"{repository}:first"]
    try:
        seconds = build(package, tags[0], given)
        first = push(tags[0], given.base_image)
        changes = {}
        for name in _CHANGES:
            tags.append(f"{repository}:{Path(name).stem}")
            changes[name] = changed(package, name, tags[-1], first, given)
        starts = [start(tags[0], given.env) for _ in range(given.rounds)]
    finally:
        for tag in tags:
            subprocess.run(["docker", "image", "rm", "--force", tag], capture_output=True, check=False)
    return {
        "docker": docker("version", "--format", "{{.Server.Version}}"),
        "build_seconds": round(seconds, 1),
        "image": sizes(first.layers),
        "changes": changes,
        "start": summary(starts),
    }


def build(package: Path, tag: str, given: argparse.Namespace) -> float:
    """The seconds that `trtpack build` took, with whatever the builder had in its cache."""
    command = [*_TRTPACK, "build", str(package), "--tag", tag]
    command += ["--base-image", given.base_image] if given.base_image else []
    command += ["--network", given.network] if given.network else []
    command += [word for argument in given.build_arg for word in ("--build-arg", argument)]
    began = monotonic()
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(_ROOT)}, stdout=sys.stderr, check=True)
    return monotonic() - began


def changed(package: Path, name: str, tag: str, before: Pushed, given: argparse.Namespace) -> dict[str, Any]:
    """A line more at the end of a file, built and pushed: what of it the registry did not have."""
    file = package / name
    original = file.read_bytes()
    _replace(file, original + b"\n# One line more.\n")
    seconds = build(package, tag, given)
    after = push(tag, given.base_image)
    _replace(file, original)
    new = {digest: size for digest, size in after.blobs.items() if digest not in before.blobs}
    return {
        "build_seconds": round(seconds, 1),
        "new_layers": [layer.made_by[:100] for layer in after.layers if layer.digest in new],
        "bytes_pushed": sum(new.values()) + after.overhead,
    }


def sizes(layers: list[Layer]) -> dict[str, Any]:
    """Of the base image, of what is added to it, and of each layer of that."""
    added = [layer for layer in layers if not layer.of_base]
    return {
        "base": _sum([layer for layer in layers if layer.of_base]),
        "added": _sum(added),
        "layers": [{"made_by": one.made_by[:100], "bytes": one.size, "compressed": one.compressed} for one in added],
    }


def summary(starts: list[Start]) -> dict[str, Any]:
    """Medians of all rounds, and the rounds. `docker`: what of `ready` was before the server's process began."""
    names = starts[-1].phases
    ready = [one.ready for one in starts]
    return {
        "rounds": len(starts),
        "docker": _median([one.ready - one.phases["ready"] for one in starts]),
        "ready": _median(ready),
        "first_token": _median([one.first_token for one in starts]),
        "phases": {name: _median([one.phases[name] for one in starts]) for name in names},
        "ready_rounds": [round(seconds, 2) for seconds in ready],
        "log": starts[-1].log,
    }


def copy(package: Path, out: Path) -> Path:
    """The package, its large files as links where the disk has them."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(package, out, copy_function=link)
    return out


def _replace(file: Path, content: bytes) -> None:
    """Not the file that is linked here, but another in its place."""
    file.unlink()
    file.write_bytes(content)


def _sum(layers: list[Layer]) -> dict[str, int]:
    return {
        "layers": len(layers),
        "bytes": sum(layer.size for layer in layers),
        "compressed": sum(layer.compressed for layer in layers),
    }


def _median(values: list[float]) -> float:
    return round(median(values), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="a folder with config.yaml, model/model.py and a compiled engine")
    parser.add_argument("--registry", required=True, help="HOST[:PORT] to push to")
    parser.add_argument("--base-image", help="as of trtpack build; needed to tell its layers from ours")
    parser.add_argument("--network", help="as of trtpack build")
    parser.add_argument("--build-arg", action="append", default=[], help="as of trtpack build; repeatable")
    parser.add_argument("--env", action="append", default=[], help="NAME=VALUE, as of docker run; repeatable")
    parser.add_argument("--rounds", type=int, default=5, help="starts of the container; default %(default)s")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    repository = f"{given.registry}/trtpack-benchmark-{uuid.uuid4().hex[:8]}"
    # Beside the package, so that what is linked lies on one disk.
    with TemporaryDirectory(prefix=".trtpack-benchmark-", dir=given.package.resolve().parent) as folder:
        results = measured(copy(given.package, Path(folder) / "package"), repository, given)
    environment = "".join(f" --env {variable}" for variable in given.env)
    command = f"python -m benchmarks.image {given.package.name} --rounds {given.rounds}{environment}"
    report.write(command, results, given.out, PACKAGES)


if __name__ == "__main__":
    main()
