"""The compile Job on a real cluster: it compiles where the GPU is, starts the engine, pushes it, and is run once.

No GPU is behind the testbed's node, so the engine is one that builds without, and is started on the CPU. Runs where a
Docker engine answers, TESTBED_REGISTRY names a registry, and KUBECONFIG a cluster that pulls from it and has the label
of an L4.
"""

import json
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest

from packager.config import load
from runtime.engine import manifest
from runtime.registry.client import PLAIN_HTTP_VARIABLE
from tests.command import TRTPACK, interruptible, trtpack
from tests.kube import kubectl, new_namespace
from tests.testbed import build_words, docker, remove
from tests.tiny import make_checkpoint
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("cluster")]

CONFIG = """
model_name: {name}
python_version: py311
resources: {{cpu: 100m, memory: 2Gi}}
engine: {{checkpoint: data/checkpoint, backend: tensorrt-rtx, dtype: float32, max_batch_size: 2, max_model_len: 64}}
environment_variables: {{TRTPACK_DEVICE: cpu, TRTPACK_PLAIN_HTTP_REGISTRIES: "{registry}"}}
"""


def done(*arguments: object, timeout: float = 900) -> str:
    result = trtpack(*arguments, timeout=timeout)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def namespace(l4_node: str) -> Iterator[str]:
    if not os.environ.get("TESTBED_REGISTRY"):
        pytest.skip("TESTBED_REGISTRY names no registry")
    with new_namespace() as name:
        yield name


class Relay(socketserver.BaseRequestHandler):
    """One connection to the registry, both ways."""

    def handle(self) -> None:
        host, _, port = os.environ["TESTBED_REGISTRY"].rpartition(":")
        with socket.create_connection((host, int(port))) as registry:
            back = Thread(target=self._copy, args=(registry, self.request), daemon=True)
            back.start()
            self._copy(self.request, registry)
            back.join()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def registry(namespace: str) -> Iterator[str]:
    """The registry as a pod reaches it too: one on this machine's loopback, through the bridge that pods are on."""
    name = os.environ["TESTBED_REGISTRY"]
    if not name.startswith(("127.", "localhost:")):
        yield name
        return
    bridge = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
    with socketserver.ThreadingTCPServer((bridge, 0), Relay) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        name = f"{bridge}:{server.server_address[1]}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRTPACK_PLAIN_HTTP_REGISTRIES", name)
            yield name
        server.shutdown()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, registry: str) -> Path:
    """A tiny random Llama, which goes into the image of the compiler."""
    folder = tmp_path_factory.mktemp("package")
    make_checkpoint("llama", folder / "data" / "checkpoint")
    (folder / "config.yaml").write_text(CONFIG.format(name=f"tiny-{uuid.uuid4().hex[:8]}", registry=registry))
    return folder


@pytest.fixture(scope="module")
def compiler(namespace: str, package: Path) -> Iterator[str]:
    """The image that compiles, in the registry, by digest."""
    reference = f"{os.environ['TESTBED_REGISTRY']}/{package.name}-{uuid.uuid4().hex[:8]}:1"
    docker("version")
    try:
        done("build", package, "--compiler", "--tag", reference, *build_words(on_cpu=True))
        pushed = done("push", package, reference, "--image", reference, "--no-attest")
        yield re.findall(r"pushed (\S+@sha256:\w+)", pushed)[0]
    finally:
        remove(reference)


def words(package: Path, compiler: str, namespace: str, tag: str, *more: object, gpu: str = "L4") -> list[object]:
    place = f"oci://{load(package).environment_variables[PLAIN_HTTP_VARIABLE]}/engine-{namespace}:{tag}"
    there = ("--on-cluster", "--image", compiler, "--namespace", namespace, "--scratch", "1Gi")
    return ["compile", package, "--gpu", gpu, *there, "--push", place, *more]


def jobs(namespace: str) -> list[str]:
    return kubectl("get", "jobs", "-n", namespace, "-o", "name").split()


def test_the_engine_is_compiled_there_and_pulled_here(
    package: Path, compiler: str, namespace: str, tmp_path: Path
) -> None:
    asked = words(package, compiler, namespace, "1")
    result = trtpack(*asked, timeout=900)
    assert result.returncode == 0, result.stderr
    reference = result.stdout.splitlines()[0]
    assert "@sha256:" in reference
    assert "Starting the engine once" in result.stderr
    (job,) = jobs(namespace)
    pods = json.loads(kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
    assert [pod["spec"]["containers"][0]["image"] for pod in pods] == [compiler]
    assert pods[0]["spec"]["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"
    # The same once more is the same Job, and its result is read.
    assert done(*asked).splitlines()[0] == reference
    assert jobs(namespace) == [job]
    done("pull", reference, "--gpu", "L4", "--out", tmp_path / "engine")
    engine = manifest.read(tmp_path / "engine")
    assert (engine.backend.name, [target.gpu for target in engine.targets]) == ("tensorrt-rtx", ["nvidia-l4"])
    assert engine.limits.max_model_len == 64
    done("inspect", tmp_path / "engine")
    # What serves it gets the releases that compiled it.
    lock = dict(re.findall(r"^([\w-]+)==([^\s;]+)", (package / "compiler.lock").read_text(), re.MULTILINE))
    assert lock["tensorrt-rtx"] == engine.backend.version
    assert lock["torch"].partition("+")[0] == engine.backend.torch


def test_what_does_not_compile_is_told_in_a_sentence_and_not_pushed(
    package: Path, compiler: str, namespace: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(package, broken)
    config = broken / "config.yaml"
    config.write_text(config.read_text().replace("max_model_len: 64", "max_model_len: 9999"))
    asked = words(broken, compiler, namespace, "broken")
    result = trtpack(*asked, timeout=900)
    assert result.returncode == 1
    assert "max_model_len is 9999" in result.stderr.splitlines()[-2]
    assert "--again" in result.stderr
    assert trtpack("pull", str(asked[-1]), "--gpu", "L4", timeout=60).returncode == 1
    # It is not tried again, unless asked.
    before = set(jobs(namespace))
    assert "max_model_len is 9999" in trtpack(*asked, timeout=300).stderr
    assert set(jobs(namespace)) == before


def test_what_is_interrupted_goes_on_and_is_followed_again(package: Path, compiler: str, namespace: str) -> None:
    asked = [str(word) for word in words(package, compiler, namespace, "again", "--dtype", "float16")]
    with subprocess.Popen([*TRTPACK, *asked], stderr=subprocess.PIPE, text=True, preexec_fn=interruptible) as process:
        assert process.stderr
        line = next(line for line in process.stderr if line.startswith("Job "))
        name = line.split()[1]
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 130
    assert "goes on" in told
    assert f"kubectl delete job {name}" in told
    result = trtpack(*asked, timeout=900)
    assert result.returncode == 0, result.stderr
    assert f"Job {name} in {namespace} is there already" in result.stderr
    assert "@sha256:" in result.stdout


def test_a_job_that_cannot_start_is_told_and_gone(package: Path, compiler: str, namespace: str) -> None:
    """For want of its GPU, and of its image; both at once, for each is waited for."""
    before = set(jobs(namespace))
    missing = f"{compiler.partition('@')[0]}@sha256:{'0' * 64}"
    gpu = words(package, compiler, namespace, "h100", "--backend", "torch", gpu="H100")
    image = words(package, missing, namespace, "missing")
    with ThreadPoolExecutor(2) as pool:
        without_gpu, without_image = pool.map(lambda asked: trtpack(*asked, timeout=300), (gpu, image))
    assert (without_gpu.returncode, without_image.returncode) == (1, 1)
    assert "no node with nvidia-h100-80gb; this cluster has nvidia-l4 (1)" in without_gpu.stderr
    assert f"{missing} cannot be pulled" in without_image.stderr
    until(lambda: set(jobs(namespace)) == before)
