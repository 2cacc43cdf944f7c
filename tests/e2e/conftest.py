"""A tiny package and its image, built once; and a cluster with a node for L4s, no GPU need be behind it."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packager import image
from packager.checkpoint import open_checkpoint
from packager.compile.engine import compile_engine
from packager.config import load
from packager.image import Options
from tests.kube import ACCELERATOR, DRIVER, kubectl, listed, new_namespace
from tests.testbed import docker, keep, pip_find_links, remove
from tests.tiny import make_checkpoint

MODEL = Path(__file__).parents[2] / "model_template" / "model" / "model.py"
CONFIG = """
model_name: tiny
python_version: py311
engine: {checkpoint: ../checkpoint, dtype: float32, max_batch_size: 4, max_model_len: 256}
runtime: {predict_concurrency: 64}
environment_variables: {GREETING: "a\\"b\\\\c $HOME ${X} 'q' #é"}
secrets: {token: open sesame}
build_commands: ['printf %s "$GREETING" > greeting.txt']
"""


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama."""
    docker("version")
    folder = tmp_path_factory.mktemp("image")
    make_checkpoint("llama", folder / "checkpoint")
    package = folder / "package"
    (package / "model").mkdir(parents=True)
    shutil.copy(MODEL, package / "model")
    (package / "config.yaml").write_text(CONFIG)
    config = load(package)
    assert config.engine
    compile_engine(open_checkpoint(config.engine.checkpoint, package), config.engine, package / "engine")
    return package


@pytest.fixture(scope="session")
def small_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No engine, and so no torch: for what does not depend on how much an image holds."""
    package = tmp_path_factory.mktemp("small")
    (package / "model").mkdir()
    (package / "model" / "model.py").write_text("class Model:\n    def predict(self, inputs):\n        return inputs\n")
    (package / "config.yaml").write_text(
        "model_name: small\npython_version: py311\nbuild_commands: ['printf hello > greeting.txt']\n"
    )
    return package


@pytest.fixture(scope="session")
def small_image(build_image: Callable[..., str], small_package: Path) -> str:
    return build_image(small_package)


@pytest.fixture(scope="session")
def build_image() -> Iterator[Callable[..., str]]:
    """Builds a package as image.build does; the images are removed at the end."""
    docker("version")
    base = os.environ.get("TESTBED_BASE_IMAGE")
    tags = []

    def build(package: Path, network: str | None = "host" if base else None, **fields: Any) -> str:
        # The testbed's base image brings torch's CPU wheel, and reaches no index but PyPI.
        own = ("PIP_EXTRA_INDEX_URL=",) if base else ()
        arguments = {name: fields.pop(name) for name in ("secrets", "no_cache") if name in fields}
        tags.append(f"trtpack-test:{uuid.uuid4().hex[:8]}")
        options = Options(base, **fields)
        with pytest.MonkeyPatch.context() as patch:
            if base:
                patch.setenv("UV_FIND_LINKS", pip_find_links())
            image.build(package, load(package), tags[-1:], options, build_args=own, network=network, **arguments)
        keep(tags[-1])
        return tags[-1]

    yield build
    remove(*tags)


@pytest.fixture(scope="session")
def tiny_image(build_image: Callable[..., str], tiny_package: Path) -> str:
    return build_image(tiny_package)


@pytest.fixture(scope="session")
def l4_node() -> Iterator[str]:
    """A node of the L4 pool, made as with `gpu-driver-version=latest`."""
    nodes = listed("nodes", "--selector", f"{ACCELERATOR}=nvidia-l4")
    if not nodes:
        pytest.skip(f"no node of the cluster has the label {ACCELERATOR}=nvidia-l4")
    name, before = nodes[0]["metadata"]["name"], nodes[0]["metadata"]["labels"].get(DRIVER)
    kubectl("label", "node", name, f"{DRIVER}=latest", "--overwrite")
    yield name
    kubectl("label", "node", name, f"{DRIVER}={before}" if before else f"{DRIVER}-", "--overwrite")


@pytest.fixture
def namespace(l4_node: str) -> Iterator[str]:
    with new_namespace() as name:
        yield name
