"""A Truss with nothing but a config.yaml whose `trt_llm:` says what to serve: compiled, served and built as it is."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from packager.model import SUPPLIED
from runtime.engine import manifest
from tests.command import serving, trtpack

pytestmark = pytest.mark.slow

CONFIG = """\
model_name: SmolLM2 135M
python_version: py39
resources:
  accelerator: L4
  use_gpu: true
trt_llm:
  build:
    base_model: decoder
    checkpoint_repository:
      source: LOCAL
      repo: {checkpoint}
    quantization_type: weights_int8
    max_seq_len: 2048
    max_batch_size: 8
    max_num_tokens: 128
    num_builder_gpus: 1
  runtime:
    batch_scheduler_policy: guaranteed_no_evict
    enable_chunked_context: true
"""


@pytest.fixture(scope="module")
def package(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truss") / "smollm2"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG.format(checkpoint=smollm2_gguf))
    compiled = trtpack("compile", folder, timeout=600)
    assert compiled.returncode == 0, compiled.stderr
    assert compiled.stderr.count("warning:") == 1
    return folder


@pytest.fixture(scope="module")
def server(package: Path) -> Iterator[httpx.Client]:
    with serving(package, package.parent / "log") as client:
        yield client


def test_the_engine_is_for_the_gpu_and_as_trt_llm_says(package: Path) -> None:
    engine = manifest.read(package / "engine")
    assert [(target.gpu, target.compute_capability) for target in engine.targets] == [("nvidia-l4", "8.9")]
    assert engine.backend.name == "tensorrt-rtx"
    assert list((package / "engine").glob("plans/sm89/*.plan"))
    assert engine.precision.quantization is not None
    assert engine.precision.quantization.scheme == "int8"
    limits = engine.limits
    assert (limits.max_model_len, limits.max_batch_size, limits.max_num_tokens) == (2048, 8, 128)
    assert engine.scheduling.admission == "guaranteed"


def test_it_answers_without_a_model_py(server: httpx.Client) -> None:
    """A prompt of more than one chunk, as Truss's examples send one."""
    question = "Read this. " + "The capital of France is Paris. " * 40 + "What is the capital of France?"
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 24, "temperature": 0}
    answer = server.post("/v1/models/model:predict", json=body)
    assert answer.status_code == 200, answer.text
    assert "Paris" in answer.json()["output"]
    with server.stream("POST", "/v1/models/model:predict", json={**body, "stream": True}) as stream:
        assert "".join(stream.iter_text()) == answer.json()["output"]


def test_the_image_gets_the_same_model_py(package: Path, tmp_path: Path) -> None:
    built = trtpack("build", package, "--context-only", tmp_path / "context")
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "context" / "image" / "app" / "model" / "model.py").read_bytes() == SUPPLIED.read_bytes()
    assert "python:3.13" in (tmp_path / "context" / "Dockerfile").read_text()


def test_the_manifests_ask_for_that_gpu(package: Path) -> None:
    rendered = trtpack("render", package, "--image", "registry.example.com/smollm2:1", "--stdout")
    assert rendered.returncode == 0, rendered.stderr
    (deployment,) = (o for o in yaml.safe_load_all(rendered.stdout) if o["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"
