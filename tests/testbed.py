"""What the testbed's Docker engine needs to be told to build; anywhere else, nothing."""

import os
import shutil
import subprocess
import sys

import pytest

_KEEPS = "trtpack-test-keeps"


def docker(*arguments: str, timeout: float = 300) -> str:
    """What the docker command answers; the test is skipped where no engine does."""
    if shutil.which("docker") is None or _run("version").returncode:
        pytest.skip("no Docker engine answers")
    done = _run(*arguments, timeout=timeout)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr or done.stdout}"
    return done.stdout.strip()


def keep(image: str) -> None:
    """Until `remove`: a kubelet on the same engine deletes images that no container has when the disk is 85% full."""
    docker("create", "--label", f"{_KEEPS}={image}", image, "true")


def remove(*images: str) -> None:
    """What there is of them."""
    for image in images:
        for container in _run("ps", "--all", "--quiet", "--filter", f"label={_KEEPS}={image}").stdout.split():
            _run("rm", container)
        _run("image", "rm", "--force", image)


def build_words(*, on_cpu: bool) -> list[str]:
    """Options of trtpack build: the testbed's base image brings torch's CPU wheel, and reaches no index but PyPI."""
    base = os.environ.get("TESTBED_BASE_IMAGE")
    if not base:
        return []
    os.environ.setdefault("UV_FIND_LINKS", pip_find_links())
    return ["--base-image", base, "--network", "host", *(["--build-arg", "PIP_EXTRA_INDEX_URL="] if on_cpu else [])]


def _run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def pip_find_links() -> str:
    """The folder of torch's CPU wheel, where pip is told of one: the lock must be of the same file."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
