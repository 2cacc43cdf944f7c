"""SmolLM2's whole way by the commands a person types: compile, build, run, push, remove, pull, run again.

Runs where a Docker engine answers and TESTBED_REGISTRY names a registry.
"""

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import trtpack
from tests.testbed import build_words, docker, remove

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("registry")]

CONFIG = """
model_name: {name}
python_version: py311
engine: {{checkpoint: {checkpoint}, max_batch_size: 4, max_model_len: 512}}
"""


def done(*arguments: object) -> str:
    result = trtpack(*arguments, timeout=500)
    assert result.returncode == 0, result.stderr
    return result.stdout


@contextmanager
def running(image: str) -> Iterator[tuple[str, str]]:
    """The name of a container that `trtpack run` started, and its URL."""
    told = done("run", image, "--port", 0, "--detach")
    (url,), (name,) = re.findall(r"serving \S+ at (\S+)", told), re.findall(r"docker rm (\S+)", told)
    try:
        yield name, url
    finally:
        docker("rm", "--force", name)


def answer(url: str) -> str:
    return done("predict", "What is the capital of France?", "--url", url, "--max-new-tokens", 12, "--temperature", 0)


def test_the_image_of_smollm2(smollm2_gguf: Path, tmp_path: Path) -> None:
    registry = os.environ.get("TESTBED_REGISTRY")
    if not registry:
        pytest.skip("TESTBED_REGISTRY names no registry")
    name = f"smollm2-{uuid.uuid4().hex[:8]}"
    reference = f"{registry}/{name}:1"
    (tmp_path / "config.yaml").write_text(CONFIG.format(name=name, checkpoint=smollm2_gguf))
    done("compile", tmp_path)
    try:
        done("build", tmp_path, *build_words(on_cpu=True))
        with running(f"{name}:latest") as (container, url):
            host = json.loads(docker("inspect", "--format", "{{json .HostConfig}}", container))
            assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
            assert docker("exec", container, "id", "-u") == "1000"
            first = answer(url)
        assert "Paris" in first
        done("push", tmp_path, reference)
        assert "✗" not in done("verify", reference)
        docker("image", "rm", f"{name}:latest")
        assert name not in docker("image", "ls")
        docker("pull", reference)
        with running(reference) as (_, url):
            assert answer(url) == first
    finally:
        remove(f"{name}:latest", reference)
