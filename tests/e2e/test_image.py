"""The image, built by a real engine: it starts locked down, answers, streams, stops when told, and runs on a cluster.

Runs where a Docker engine answers. TESTBED_BASE_IMAGE names a base image other than the default; the cluster of
KUBECONFIG must see this engine's images, and have a node with the label of an L4.
"""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from k8s.gpus import find
from k8s.render import Workload, render
from packager import image
from packager.checkpoint import open_checkpoint
from packager.compile import compile_engine
from packager.config import load
from tests.tiny import make_checkpoint
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MODEL = Path(__file__).parents[2] / "model_template" / "model" / "model.py"
CONFIG = """
model_name: tiny
python_version: py311
engine: {checkpoint: ../checkpoint, dtype: float32, max_batch_size: 4, max_model_len: 256}
environment_variables: {GREETING: "a\\"b\\\\c $HOME ${X} 'q' #é"}
secrets: {token: open sesame}
build_commands: ['printf %s "$GREETING" > greeting.txt']
"""
LOCKED_DOWN = ("--read-only", "--cap-drop", "ALL", "--user", "1000", "--tmpfs", "/tmp")
PREDICT = "/v1/models/model:predict"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Server:
    url: str

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models/model", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def predict(self, **inputs: Any) -> Any:
        """The response, open: read it whole or as it comes."""
        request = urllib.request.Request(self.url + PREDICT, json.dumps(inputs).encode(), method="POST")
        return urllib.request.urlopen(request, timeout=60)


@pytest.fixture(scope="module")
def tag(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image of a tiny random Llama, removed at the end."""
    if shutil.which("docker") is None or subprocess.run(["docker", "version"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers")
    folder = tmp_path_factory.mktemp("image")
    make_checkpoint("llama", folder / "checkpoint")
    package = folder / "package"
    (package / "model").mkdir(parents=True)
    shutil.copy(MODEL, package / "model")
    (package / "config.yaml").write_text(CONFIG)
    config = load(package)
    assert config.engine
    compile_engine(open_checkpoint(config.engine.checkpoint, package), config.engine, package / "engine")
    tag = f"trtpack-test:{uuid.uuid4().hex[:8]}"
    base = os.environ.get("TESTBED_BASE_IMAGE")
    # The testbed's base image brings torch's CPU wheel, and reaches no index but PyPI.
    own = ("PIP_EXTRA_INDEX_URL=",) if base else ()
    image.build(package, config, tag, base_image=base, build_args=own, network="host" if base else None)
    yield tag
    run("docker", "image", "rm", "--force", tag)


@pytest.fixture
def container(tag: str) -> Iterator[str]:
    name = run("docker", "run", "--detach", *LOCKED_DOWN, "--publish", "127.0.0.1::8080", tag)
    yield name
    run("docker", "rm", "--force", name)


@pytest.fixture
def server(container: str) -> Server:
    address = run("docker", "port", container, "8080/tcp").splitlines()[0]
    server = Server(f"http://{address}")
    until(lambda: server.ready() or not running(container), timeout=90)
    assert running(container), run("docker", "logs", container)
    return server


def running(container: str) -> bool:
    return run("docker", "inspect", "--format", "{{.State.Running}}", container) == "true"


def test_it_answers(server: Server) -> None:
    with server.predict(prompt="the quick", max_new_tokens=8, temperature=0) as response:
        assert list(json.load(response)) == ["output"]


def test_it_streams_what_it_answers(server: Server) -> None:
    inputs = {"prompt": "the quick", "max_new_tokens": 8, "temperature": 0}
    with server.predict(**inputs) as response:
        whole = json.load(response)["output"]
    with server.predict(**inputs, stream=True) as response:
        chunks = list(iter(response.read1, b""))
    assert len(chunks) > 1
    assert b"".join(chunks).decode() == whole


def test_it_stops_when_told(container: str, server: Server) -> None:
    """Python is process 1 and hears SIGTERM; a shell in between would leave it to be killed."""
    started = monotonic()
    run("docker", "stop", "--time", "20", container)
    assert monotonic() - started < 15
    assert run("docker", "inspect", "--format", "{{.State.ExitCode}}", container) == "0"


def test_it_holds_what_it_needs_and_no_secret(tag: str) -> None:
    def inside(script: str) -> str:
        return run("docker", "run", "--rm", *LOCKED_DOWN, tag, "sh", "-c", script)

    assert inside("ls") == "config.yaml\nengine\ngreeting.txt\nmodel\nruntime"
    assert inside("cat greeting.txt") == inside('printf %s "$GREETING"') == "a\"b\\c $HOME ${X} 'q' #é"
    assert inside("id -u") == "1000"
    assert inside("! grep -r sesame . && ! touch x 2>/dev/null && echo clean") == "clean"
    assert (
        run("docker", "run", "--rm", "--user", "0", tag, "sh", "-c", "ls -A /tmp /root/.cache 2>/dev/null || true")
        == "/tmp:"
    )
    engine = json.loads(inside("cat engine/engine.json"))
    assert inside("python -c 'import torch; print(torch.__version__)'").split("+")[0] == engine["backend"]["version"]


def test_a_change_of_the_config_rebuilds_the_last_layer_alone(tag: str) -> None:
    layers = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", tag).splitlines()
    copied = [line for line in layers if line.startswith("COPY")]
    assert [line.split()[1].removeprefix("/app/") for line in copied] == [
        "config.yaml",
        "model",
        "engine",
        "runtime",
        "/opt/venv",
    ]


@contextmanager
def forwarded(namespace: str, service: str) -> Iterator[Server]:
    command = ["kubectl", "port-forward", "--namespace", namespace, f"service/{service}", ":80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            port = process.stdout.readline().split("127.0.0.1:")[1].split()[0]
            yield Server(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


@pytest.fixture
def namespace() -> Iterator[str]:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    labels = ["cloud.google.com/gke-accelerator=nvidia-l4", "cloud.google.com/gke-gpu-driver-version"]
    nodes = json.loads(run("kubectl", "get", "nodes", "--selector", labels[0], "--output", "json"))["items"]
    if not nodes:
        pytest.skip(f"no node of the cluster has the label {labels[0]}")
    node, labelled = nodes[0]["metadata"]["name"], labels[1] in nodes[0]["metadata"]["labels"]
    name = f"trtpack-{uuid.uuid4().hex[:8]}"
    run("kubectl", "create", "namespace", name)
    if not labelled:
        run("kubectl", "label", "node", node, f"{labels[1]}=latest")
    yield name
    run("kubectl", "delete", "namespace", name, "--timeout=100s")
    if not labelled:
        run("kubectl", "label", "node", node, f"{labels[1]}-")


def test_its_manifests_bring_it_up_and_roll_it_over(tag: str, namespace: str, tmp_path: Path) -> None:
    """With one GPU in all, the second rollout ends only because the old pod goes first."""
    for count, env in enumerate([{}, {"ROLL": "2"}]):
        workload = Workload(
            name="tiny",
            image=tag,
            namespace=namespace,
            gpu=find("L4"),
            gpu_count=1,
            cpu="200m",
            memory="1500Mi",
            ephemeral_storage="100Mi",
            secrets=("token",),
            env=env,
            load_seconds=120,
            drain_seconds=2,
            grace_seconds=30,
        )
        for name, text in render(workload).items():
            (tmp_path / name).write_text(text)
        run("kubectl", "apply", "--filename", str(tmp_path))
        run("kubectl", "rollout", "status", "--namespace", namespace, "deployment/tiny", "--timeout=110s")
        with forwarded(namespace, "tiny") as server:
            assert server.ready(), count
            with server.predict(prompt="the quick", max_new_tokens=4) as response:
                assert list(json.load(response)) == ["output"]
