"""trtpack deploy on a real cluster: up, streamed from, rolled over under load, told what is wrong, and gone again.

Runs where KUBECONFIG names a cluster that has a node with the label of an L4 (no GPU need be behind it), and that
sees the images of the Docker engine at hand. TESTBED_BASE_IMAGE names a base image other than the default.
"""

import json
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from k8s.deploy.cluster import Cluster
from k8s.deploy.forward import endpoint, forwarded
from tests.command import TRTPACK, trtpack
from tests.kube import kubectl, listed
from tests.testbed import build_words, docker, keep, remove
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("cluster")]

ABSENT = "127.0.0.1:1/none:1"  # no registry there

CONFIG = """
model_name: {name}
python_version: py311
engine: {{checkpoint: {checkpoint}, dtype: float32, max_batch_size: 32, max_model_len: 512}}
runtime: {{predict_concurrency: 64}}
resources: {{cpu: 200m, memory: 4Gi}}
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


def make_package(folder: Path, name: str = "tiny", checkpoint: Path = Path("none"), **environment: str) -> Path:
    """What is deployed of it is up to --image."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.py").write_text(MODEL)
    words = {"name": name, "checkpoint": checkpoint, "environment": json.dumps(environment)}
    (folder / "config.yaml").write_text(CONFIG.format(**words))
    return folder


@pytest.fixture(scope="module")
def package(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2, which runs on the CPU of the node that says it has an L4."""
    package = make_package(tmp_path_factory.mktemp("deploy") / "package", "smollm2", smollm2_gguf, TRTPACK_DEVICE="cpu")
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
            keep(tag)
        yield tags[0], tags[1]
    finally:
        remove(*tags)


def deploy(package: Path, namespace: str, image: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = ("--namespace", namespace, "--image", image, "--gpu", "L4", *arguments)
    return trtpack("deploy", package, *words, timeout=600)


def versions(namespace: str) -> dict[str, str]:
    """Of the objects that a deploy applies, where a controller does not touch them."""
    return {
        f"{each['kind']}/{each['metadata']['name']}": f"{each['metadata']['uid']} {each['metadata'].get('generation')}"
        for each in listed("deployments,services", "--namespace", namespace)
    }


def test_up_streamed_from_rolled_over_drained_and_gone(
    package: Path, images: tuple[str, str], l4_node: str, namespace: str
) -> None:
    up = deploy(package, namespace, images[0])
    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("service/smollm2 created\ndeployment/smollm2 created\n")
    assert "0 of 1 ready" in up.stderr
    assert "1 of 1 ready" in up.stderr
    _it_answers(namespace, "one")
    _again_changes_nothing(package, images[0], namespace)
    _a_hand_edit_shows(package, images[0], namespace)
    with _streams(namespace, "one"):
        rolled = deploy(package, namespace, images[1])
        assert rolled.returncode == 0, rolled.stderr
    _it_answers(namespace, "two")
    with _streams(namespace, "two"):
        _drained(l4_node)
        assert deploy(package, namespace, images[1]).returncode == 0
    _it_answers(namespace, "two")
    gone = trtpack("delete", f"{namespace}/smollm2")
    assert gone.returncode == 0, gone.stderr
    kinds = "deployments,replicasets,pods,services,configmaps,serviceaccounts,jobs"
    left = [f"{each['kind']}/{each['metadata']['name']}" for each in listed(kinds, "--namespace", namespace)]
    assert [name for name in left if name not in ("ServiceAccount/default", "ConfigMap/kube-root-ca.crt")] == []


def _it_answers(namespace: str, version: str) -> None:
    words = ("--raw", "--kube", f"{namespace}/smollm2", "--max-new-tokens", 20, "--temperature", 0)
    asked = trtpack("predict", "The capital of France is", *words)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith(f"{version}: Paris")
    status = json.loads(trtpack("status", f"{namespace}/smollm2", "--json").stdout)["deployments"][0]
    assert (status["ready"], status["done"], status["trouble"]) == (1, True, None)
    assert status["pods"][0]["gpu"] == "nvidia-l4 x1"


def _again_changes_nothing(package: Path, image: str, namespace: str) -> None:
    before = versions(namespace)
    again = deploy(package, namespace, image)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("service/smollm2 unchanged\ndeployment/smollm2 unchanged\nnothing changed")
    assert versions(namespace) == before
    assert deploy(package, namespace, image, "--diff").stdout == "nothing would change\n"


def _a_hand_edit_shows(package: Path, image: str, namespace: str) -> None:
    patch = {"spec": {"progressDeadlineSeconds": 77}}
    kubectl("patch", "deployment", "smollm2", "--namespace", namespace, "--patch", json.dumps(patch))
    shown = deploy(package, namespace, image, "--diff").stdout
    assert re.search(r"^-  progressDeadlineSeconds: 77\n\+  progressDeadlineSeconds: \d+$", shown, re.M)
    assert len([line for line in shown.splitlines() if line[0] in "+-"]) == 4
    restored = deploy(package, namespace, image)
    assert "deployment/smollm2 changed" in restored.stdout
    assert deploy(package, namespace, image, "--diff").stdout == "nothing would change\n"


@contextmanager
def _streams(namespace: str, version: str) -> Iterator[None]:
    """20 of them, through the API server, to a pod that ends meanwhile: none loses a word."""
    cluster = Cluster.connect()
    pod, port = endpoint(cluster, namespace, "smollm2")
    body = {"prompt": "The capital of France is", "max_new_tokens": 100, "ignore_eos": True}
    body |= {"temperature": 0, "streaming": True}
    with forwarded(cluster, namespace, pod, port) as local, ThreadPoolExecutor(22) as pool:
        url = f"http://127.0.0.1:{local}/v1/models/model:predict"
        whole = _read(url, body)
        assert whole.startswith(f"{version}: Paris")
        # At a pace at which each takes half a minute at least.
        streams = [pool.submit(_read, url, body | {"pace": 0.3}) for _ in range(20)]
        log = pool.submit(trtpack, "logs", f"{namespace}/smollm2", "--follow", timeout=300)
        told = pool.submit(until, lambda: any(_ends(each) for each in listed("pods", "--namespace", namespace)))
        yield
        assert told.result()
        assert [stream.result() for stream in streams] == [whole] * 20
        # Some were still running when the old pod was told to stop.
        assert re.search(r"Stopping when [1-9]\d* running requests are complete", log.result().stdout), log.result()


def _drained(node: str) -> None:
    ours = "app.kubernetes.io/name=smollm2"
    try:
        kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--pod-selector={ours}")
    finally:
        kubectl("uncordon", node)


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
        remove(tag)
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
    assert f"error: {missing}\n" in done.stderr
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
