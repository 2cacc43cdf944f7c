"""The whole path through the command line: a new package, its engine, its server, its manifests, its context."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from runtime.engine import manifest
from tests.command import serving, trtpack

pytestmark = pytest.mark.slow

# What the template's model.py does, and on request which modules its process has imported.
CURIOUS_MODEL = """
import sys

from template_model import Model as TemplateModel

class Model(TemplateModel):
    async def predict(self, inputs):
        return sorted(sys.modules) if inputs == "modules" else await super().predict(inputs)
"""


@pytest.fixture(scope="module")
def package(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("path") / "tiny"
    for step in (
        trtpack("init", folder, "--checkpoint", tiny_checkpoint("qwen3"), "--gpu", "L4"),
        trtpack("compile", folder, "--dtype", "float32"),
    ):
        assert step.returncode == 0, step.stderr
    (folder / "packages").mkdir()
    (folder / "model" / "model.py").rename(folder / "packages" / "template_model.py")
    (folder / "model" / "model.py").write_text(CURIOUS_MODEL)
    return folder


@pytest.fixture(scope="module")
def server(package: Path) -> Iterator[httpx.Client]:
    with serving(package, package.parent / "log") as client:
        yield client


def predict(server: httpx.Client, **inputs: object) -> httpx.Response:
    return server.post("/v1/models/model:predict", json=inputs)


def test_the_server_imports_neither_the_packager_nor_transformers(server: httpx.Client) -> None:
    predict(server, prompt="the fox", max_new_tokens=2).raise_for_status()
    modules = server.post("/v1/models/model:predict", json="modules").json()
    assert "runtime.engine.torch" in modules
    assert not {"packager", "transformers", "k8s", "huggingface_hub"} & set(modules)


def test_an_engine_whose_gpu_is_not_here_runs_on_the_cpu_and_says_so(server: httpx.Client, package: Path) -> None:
    assert manifest.read(package / "engine").backend.name == "tensorrt-rtx"
    note = (package.parent / "log").read_text().splitlines()[0]
    assert note == "note: no NVIDIA GPU here; serving on the CPU with PyTorch"


def test_a_whole_answer_and_a_streamed_one_are_the_same(server: httpx.Client) -> None:
    inputs = {"messages": [{"role": "user", "content": "the fox"}], "max_new_tokens": 40}
    whole = predict(server, **inputs).json()["output"]
    assert whole
    with server.stream("POST", "/v1/models/model:predict", json={**inputs, "streaming": True}) as answer:
        pieces = list(answer.iter_text())
    assert "".join(pieces) == whole
    assert len(pieces) > 5
    asked = trtpack("predict", "the fox", "--url", server.base_url, "--max-new-tokens", 40)
    assert (asked.stdout, asked.returncode) == (whole + "\n", 0)


def test_16_at_once_are_right_and_short_ones_overtake(server: httpx.Client) -> None:
    requests = [{"prompt": "the quick fox " * (1 + i), "max_new_tokens": 120 if i < 8 else 3} for i in range(16)]
    alone = [predict(server, **request).json() for request in requests]
    finished: list[int] = []

    def ask(index: int) -> object:
        answer = predict(server, **requests[index]).json()
        finished.append(index)
        return answer

    with ThreadPoolExecutor(16) as pool:
        futures = []
        for index in range(16):
            futures.append(pool.submit(ask, index))
            time.sleep(0.01)  # so that they arrive in order
    assert [future.result() for future in futures] == alone
    assert set(finished[:8]) == set(range(8, 16))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b'{"prompt": 7}', "prompt: Input should be a valid string, got 7"),
        (b'{"prompt": ""}', "prompt: it is empty"),
        (json.dumps({"prompt": "the fox " * 999}).encode(), "max_model_len is 512"),
        (b'{"prompt": "a", "max_new_tokens": 600}', "more than max_model_len 512; ask for at most 511"),
        (b'{"prompt": "a", "temperature": "hot"}', "temperature: Input should be a valid number, got 'hot'"),
    ],
)
def test_a_wrong_request_is_a_400_that_says_which_limit(server: httpx.Client, body: bytes, message: str) -> None:
    answer = server.post("/v1/models/model:predict", content=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_a_client_that_leaves_frees_its_place(server: httpx.Client) -> None:
    def metric(name: str) -> float:
        lines = server.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def leave() -> bool:
        """Whether the server gave the request up; one that it had finished by then does not count."""
        before = metric("trtpack_request_success_total")
        inputs = {"prompt": "the", "max_new_tokens": 500, "streaming": True}
        with server.stream("POST", "/v1/models/model:predict", json=inputs) as answer:
            next(answer.iter_text())
        deadline = time.monotonic() + 10
        while metric("trtpack_num_requests_running") or metric("trtpack_request_success_total") == before:
            assert time.monotonic() < deadline
        return metric('trtpack_request_success_total{finished_reason="cancelled"}') > 0

    assert any(leave() for _ in range(5))


def test_the_manifests_pass_the_oldest_and_the_newest_schemas(package: Path) -> None:
    rendered = trtpack("render", package, "--image", "registry.example.com/tiny:1", "--out", package / "manifests")
    assert rendered.returncode == 0, rendered.stderr
    listed = yaml.safe_load((package / "manifests" / "kustomization.yaml").read_text())["resources"]
    objects = [yaml.safe_load((package / "manifests" / name).read_text()) for name in listed]
    assert {o["kind"] for o in objects} == {"Deployment", "Service"}
    for resource in objects:
        for version in (all_versions()[0], all_versions()[-1]):
            kubernetes_validate.validate(resource, version, strict=True)
    pod = next(o for o in objects if o["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] in (1, "1")


def test_the_context_holds_what_serving_needs(package: Path, tmp_path: Path) -> None:
    written = trtpack("build", package, "--context-only", tmp_path / "context")
    assert written.returncode == 0, written.stderr
    names = {path.relative_to(tmp_path / "context").as_posix() for path in (tmp_path / "context").rglob("*")}
    layers = {"app/config.yaml", "app/model/model.py", "engine/engine.json", "trtpack/runtime/llm.py"}
    assert {"Dockerfile", "build/requirements.lock", *(f"image/{name}" for name in layers)} <= names
    assert not {name for name in names if {"packager", "k8s", "tests"} & set(name.split("/"))}


def test_a_model_that_does_not_load_ends_the_process_with_its_own_traceback(package: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    assert trtpack("init", broken).returncode == 0
    (broken / "config.yaml").write_text("model_name: broken\n")
    (broken / "model" / "model.py").write_text(
        "class Model:\n    def load(self):\n        self.weights = {}['missing']\n    def predict(self, x): ...\n"
    )
    served = trtpack("serve", broken, "--port", "0")
    assert served.returncode != 0
    assert "self.weights = {}['missing']" in served.stderr
    assert "KeyError: 'missing'" in served.stderr
    assert "runtime/server" not in served.stderr
