"""trtpack deploy on a real cluster: up, streamed from, rolled over under load, told what is wrong, and gone again.

Runs where KUBECONFIG names a cluster that has a node with the label of an L4 (no GPU need be behind it), and that
sees the images of the Docker engine at hand. TESTBED_BASE_IMAGE names a base image other than the default.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from k8s.deploy.cluster import Cluster
from k8s.deploy.forward import endpoint, forwarded
from tests.command import TRTPACK, trtpack
from tests.testbed import build_words, docker
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ACCELERATOR = "cloud.google.com/gke-accelerator"
DRIVER = "cloud.google.com/gke-gpu-driver-version"
ABSENT = "127.0.0.1:1/none:1"  # no registry there

CONFIG = """
model_name: {name}
python_version: py311
engine: {{checkpoint: ../checkpoint, dtype: float32, max_batch_size: 4, max_model_len: 256}}
runtime: {{predict_concurrency: 64}}
resources: {{cpu: 200m, memory: 1500Mi}}
environment_variables: {environment}
"""

# What the template's model.py does, told apart by its version, as slowly as is asked; and, where PRETEND is set, with
# a driver's library that finds a T4.
MODEL = """
import asyncio, os

import pynvml

from template_model import Model as TemplateModel

if "PRETEND" in os.environ:
    pynvml.nvmlInit = pynvml.nvmlShutdown = lambda: None
    pynvml.nvmlDeviceGetCount = lambda: 1
    pynvml.nvmlDeviceGetHandleByIndex = lambda index: index
    pynvml.nvmlDeviceGetMigMode = lambda gpu: [0, 0]
    pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle = lambda gpu: gpu
    pynvml.nvmlDeviceGetCudaComputeCapability = lambda gpu: (7, 5)
    pynvml.nvmlDeviceGetName = lambda gpu: "Tesla T4"
    pynvml.nvmlDeviceGetMemoryInfo = lambda gpu: type("Memory", (), {"total": 16 << 30})
    pynvml.nvmlSystemGetDriverVersion = lambda: "580.95.05"

VERSION = "one"

class Model(TemplateModel):
    async def predict(self, inputs):
        pace = inputs.pop("pace", 0)
        answer = await super().predict(inputs)
        return answer if isinstance(answer, dict) else self._paced(answer, pace)

    async def _paced(self, pieces, pace):
        yield f"{VERSION}:"
        async for piece in pieces:
            await asyncio.sleep(pace)
            yield piece
"""


def kubectl(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def listed(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("get", *arguments, "--output", "json"))["items"]
    return found


@pytest.fixture(scope="module")
def l4_node() -> Iterator[str]:
    """A node of the L4 pool, made as with `gpu-driver-version=latest`."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    nodes = listed("nodes", "--selector", f"{ACCELERATOR}=nvidia-l4")
    if not nodes:
        pytest.skip(f"no node of the cluster has the label {ACCELERATOR}=nvidia-l4")
    name, labelled = nodes[0]["metadata"]["name"], DRIVER in nodes[0]["metadata"]["labels"]
    kubectl("label", "node", name, f"{DRIVER}=latest", "--overwrite")
    yield name
    if not labelled:
        kubectl("label", "node", name, f"{DRIVER}-")


@pytest.fixture
def namespace(l4_node: str) -> Iterator[str]:
    name = f"trtpack-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "deployments", "--all", "--namespace", name)
    kubectl("delete", "pods", "--all", "--force", "--grace-period=0", "--namespace", name)
    kubectl("delete", "namespace", name, "--wait=false")


def make_package(folder: Path, name: str = "tiny", **environment: str) -> Path:
    """One that is not built: what is deployed of it is up to --image."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.py").write_text(MODEL)
    (folder / "config.yaml").write_text(CONFIG.format(name=name, environment=json.dumps(environment)))
    return folder


@pytest.fixture(scope="module")
def package(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama that runs on the CPU, with an engine."""
    folder = tmp_path_factory.mktemp("deploy")
    shutil.copytree(tiny_checkpoint("llama"), folder / "checkpoint")
    package = make_package(folder / "package", TRTPACK_DEVICE="cpu")
    template = Path(__file__).parents[2] / "model_template" / "model" / "model.py"
    (package / "packages").mkdir()
    shutil.copy(template, package / "packages" / "template_model.py")
    done = trtpack("compile", package)
    assert done.returncode == 0, done.stderr
    return package


@pytest.fixture(scope="module")
def images(package: Path) -> Iterator[tuple[str, str]]:
    """The package's, and the same after its model.py was changed."""
    docker("version")
    tags = tuple(f"trtpack-test:{uuid.uuid4().hex[:8]}" for _ in range(2))
    model = package / "model" / "model.py"
    try:
        for tag, text in zip(tags, (MODEL, MODEL.replace('"one"', '"two"')), strict=True):
            model.write_text(text)
            done = trtpack("build", package, "--tag", tag, *build_words(on_cpu=True), timeout=900)
            assert done.returncode == 0, done.stderr
        yield tags[0], tags[1]
    finally:
        subprocess.run(["docker", "image", "rm", "--force", *tags], capture_output=True, timeout=120, check=False)


def deploy(package: Path, namespace: str, image: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = ("--namespace", namespace, "--image", image, "--gpu", "L4", *arguments)
    return trtpack("deploy", package, *words, timeout=600)


def versions(namespace: str) -> dict[str, str]:
    """Of the objects that a deploy applies, where a controller does not touch them."""
    return {
        f"{each['kind']}/{each['metadata']['name']}": f"{each['metadata']['uid']} {each['metadata'].get('generation')}"
        for each in listed("deployments,services", "--namespace", namespace)
    }


def test_up_streamed_from_rolled_over_and_gone(package: Path, images: tuple[str, str], namespace: str) -> None:
    up = deploy(package, namespace, images[0])
    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("service/tiny created\ndeployment/tiny created\n")
    assert "0 of 1 ready" in up.stderr
    assert "1 of 1 ready" in up.stderr
    _it_answers(namespace)
    _again_changes_nothing(package, images[0], namespace)
    _a_hand_edit_shows(package, images[0], namespace)
    _streams_outlive_a_rollout(package, images[1], namespace)
    said = trtpack("logs", f"{namespace}/tiny")
    assert "Completed model.load() execution" in said.stdout
    gone = trtpack("delete", f"{namespace}/tiny")
    assert gone.returncode == 0, gone.stderr
    kinds = "deployments,replicasets,pods,services,configmaps,serviceaccounts,jobs"
    left = [f"{each['kind']}/{each['metadata']['name']}" for each in listed(kinds, "--namespace", namespace)]
    assert [name for name in left if name not in ("ServiceAccount/default", "ConfigMap/kube-root-ca.crt")] == []


def _it_answers(namespace: str) -> None:
    asked = trtpack("predict", "the quick", "--raw", "--kube", f"{namespace}/tiny", "--max-new-tokens", 40)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("one:")
    status = json.loads(trtpack("status", f"{namespace}/tiny", "--json").stdout)["deployments"][0]
    assert (status["ready"], status["done"], status["trouble"]) == (1, True, None)
    assert status["pods"][0]["gpu"] == "nvidia-l4 x1"


def _again_changes_nothing(package: Path, image: str, namespace: str) -> None:
    before = versions(namespace)
    again = deploy(package, namespace, image)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("service/tiny unchanged\ndeployment/tiny unchanged\nnothing changed")
    assert versions(namespace) == before
    assert deploy(package, namespace, image, "--diff").stdout == "nothing would change\n"


def _a_hand_edit_shows(package: Path, image: str, namespace: str) -> None:
    patch = {"spec": {"progressDeadlineSeconds": 77}}
    kubectl("patch", "deployment", "tiny", "--namespace", namespace, "--patch", json.dumps(patch))
    shown = deploy(package, namespace, image, "--diff").stdout
    assert re.search(r"^-  progressDeadlineSeconds: 77\n\+  progressDeadlineSeconds: \d+$", shown, re.M)
    assert len([line for line in shown.splitlines() if line[0] in "+-"]) == 4
    restored = deploy(package, namespace, image)
    assert "deployment/tiny changed" in restored.stdout
    assert deploy(package, namespace, image, "--diff").stdout == "nothing would change\n"


def _streams_outlive_a_rollout(package: Path, image: str, namespace: str) -> None:
    """20 of them, through the API server, to a pod that is replaced meanwhile: none loses a word."""
    cluster = Cluster.connect()
    pod, port = endpoint(cluster, namespace, "tiny")
    body = {"prompt": "the quick", "max_new_tokens": 100, "temperature": 0, "streaming": True}
    with forwarded(cluster, namespace, pod, port) as local, ThreadPoolExecutor(22) as pool:
        url = f"http://127.0.0.1:{local}/v1/models/model:predict"
        whole = _read(url, body)
        assert whole.startswith("one:")
        # At a pace at which each takes some 30 s.
        slow = body | {"pace": 30 / 100}
        streams = [pool.submit(_read, url, slow) for _ in range(20)]
        log = pool.submit(trtpack, "logs", f"{namespace}/tiny", "--follow", timeout=300)
        rollout = pool.submit(deploy, package, namespace, image)
        until(lambda: any(_ends(each) for each in listed("pods", "--namespace", namespace)))
        assert not any(stream.done() for stream in streams)
        assert [stream.result() for stream in streams] == [whole] * 20
        assert rollout.result().returncode == 0, rollout.result().stderr
        stopping = re.search(r"Stopping when (\d+) running requests are complete", log.result().stdout)
        assert stopping, log.result()
        assert int(stopping[1]) >= 20
    asked = trtpack("predict", "the quick", "--raw", "--kube", f"{namespace}/tiny", "--max-new-tokens", 4)
    assert asked.stdout.startswith("two:")


def _read(url: str, body: dict[str, Any]) -> str:
    with httpx.Client(timeout=120, trust_env=False) as client, client.stream("POST", url, json=body) as answer:
        answer.raise_for_status()
        return "".join(answer.iter_text())


def _ends(pod: dict[str, Any]) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def test_an_engine_for_another_gpu_is_told_in_that_sentence(
    package: Path, images: tuple[str, str], namespace: str, plan_engine: Callable[..., Path], tmp_path: Path
) -> None:
    """Plans for an L4, on a node that says it has one, whose driver finds a T4."""
    shutil.copytree(plan_engine("llama"), tmp_path / "context" / "engine")
    (tmp_path / "context" / "Dockerfile").write_text(
        f"FROM {images[0]}\nUSER 0\nRUN rm -rf /app/engine\nCOPY --chown=0:0 engine /app/engine\n"
        "RUN chmod -R a+rX /app/engine\nUSER 1000:1000\n"
    )
    tag = f"trtpack-test:{uuid.uuid4().hex[:8]}"
    docker("build", "--tag", tag, str(tmp_path / "context"))
    try:
        elsewhere = make_package(tmp_path / "package", TRTPACK_DEVICE="cuda", PRETEND="a T4")
        done = deploy(elsewhere, namespace, tag)
    finally:
        docker("image", "rm", "--force", tag)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        "error: tiny: the engine's plans are for nvidia-l4 (8.9), and this machine has Tesla T4 (7.5): run it on a node"
    )


def test_an_image_that_is_not_there(namespace: str, tmp_path: Path) -> None:
    done = deploy(make_package(tmp_path / "package"), namespace, ABSENT, "--timeout", 300)
    assert done.returncode == 1
    assert f"error: tiny: the image {ABSENT} cannot be pulled: " in done.stderr
    assert "connection refused" in done.stderr


def test_a_gpu_that_no_node_has(l4_node: str, namespace: str, tmp_path: Path) -> None:
    done = trtpack(
        "deploy", make_package(tmp_path / "package"), "--namespace", namespace, "--image", ABSENT, "--gpu", "H100"
    )
    assert done.returncode == 1
    assert re.search(r"^error: no node with nvidia-h100-80gb; this cluster has .*nvidia-l4 \(\d+\)", done.stderr, re.M)
    assert listed("deployments", "--namespace", namespace) == []


def test_a_release_that_lacks_a_kind(namespace: str, tmp_path: Path) -> None:
    cluster = Cluster.connect()
    if cluster.knows("policy/v1", "PodDisruptionBudget"):
        pytest.skip(f"Kubernetes {cluster.version} has policy/v1")
    done = deploy(make_package(tmp_path / "package"), namespace, ABSENT, "--set", "disruption_budget=true")
    assert done.returncode == 1
    missing = f"this cluster ({cluster.version}) has no policy/v1 PodDisruptionBudget"
    assert done.stderr.splitlines()[0] == f"error: {missing}"
    assert listed("deployments", "--namespace", namespace) == []


def test_a_namespace_that_is_not_there(l4_node: str, tmp_path: Path) -> None:
    done = deploy(make_package(tmp_path / "package"), "trtpack-absent", ABSENT)
    assert done.returncode == 1
    assert "error: there is no namespace trtpack-absent\n" in done.stderr


def test_two_packages_for_one_gpu(namespace: str, tmp_path: Path) -> None:
    """The first holds the GPU from when it is bound, whatever its image; the second says so while it waits."""
    first = make_package(tmp_path / "first", "first")
    assert deploy(first, namespace, ABSENT, "--no-wait").returncode == 0
    until(lambda: [each for each in listed("pods", "--namespace", namespace) if "nodeName" in each["spec"]], 240)
    done = deploy(make_package(tmp_path / "second", "second"), namespace, ABSENT, "--timeout", 5)
    assert done.returncode == 1
    holder = rf"waiting for a GPU: (the one|all \d+) nvidia-l4 taken by .*{namespace}/first-\S+ \(1\)"
    assert re.search(rf"^note: {holder}", done.stderr, re.M)
    assert re.search(rf"^error: second is not ready after 5 s: {holder}", done.stderr, re.M)


def test_a_killed_deploy_is_finished_by_running_it_again(namespace: str, tmp_path: Path) -> None:
    package = make_package(tmp_path / "package")
    words = ["deploy", str(package), "--namespace", namespace, "--image", ABSENT, "--gpu", "L4"]
    with subprocess.Popen([*TRTPACK, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        until(lambda: listed("services", "--namespace", namespace))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = deploy(package, namespace, ABSENT, "--no-wait")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("service/tiny unchanged\n")
    assert [each["metadata"]["name"] for each in listed("deployments", "--namespace", namespace)] == ["tiny"]
    assert deploy(package, namespace, ABSENT, "--diff").stdout == "nothing would change\n"
