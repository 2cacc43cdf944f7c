"""The image, built by a real engine: it starts locked down, answers, streams, stops when told, and runs on a cluster.

And it is the same when it is built again, by BuildKit or without, but for a few kilobytes where model.py changed.

Runs where a Docker engine answers. TESTBED_BASE_IMAGE names a base image other than the default; the cluster of
KUBECONFIG must see this engine's images, and have a node with the label of an L4.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from platform import machine
from time import monotonic
from typing import Any

import pytest

from k8s.gpus import find
from k8s.render import Workload, render
from packager import image
from packager.checkpoint import open_checkpoint
from packager.compile.engine import compile_engine
from packager.config import load
from packager.image import Options
from tests.command import TRTPACK, interruptible, trtpack
from tests.testbed import pip_find_links
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
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama."""
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
    return package


@pytest.fixture(scope="module")
def build() -> Iterator[Callable[..., str]]:
    """Builds a package as image.build does; the images are removed at the end."""
    base = os.environ.get("TESTBED_BASE_IMAGE")
    tags = []

    def build_image(package: Path, network: str | None = "host" if base else None, **fields: Any) -> str:
        # The testbed's base image brings torch's CPU wheel, and reaches no index but PyPI.
        own = ("PIP_EXTRA_INDEX_URL=",) if base else ()
        arguments = {name: fields.pop(name) for name in ("secrets", "no_cache") if name in fields}
        tags.append(f"trtpack-test:{uuid.uuid4().hex[:8]}")
        options = Options(base, **fields)
        with pytest.MonkeyPatch.context() as patch:
            if base:
                patch.setenv("UV_FIND_LINKS", pip_find_links())
            image.build(package, load(package), tags[-1:], options, build_args=own, network=network, **arguments)
        return tags[-1]

    yield build_image
    for tag in tags:
        subprocess.run(["docker", "image", "rm", "--force", tag], capture_output=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def tag(build: Callable[..., str], package: Path) -> str:
    return build(package)


def digests(image: str) -> list[str]:
    """Of its layers, the base image's first."""
    found: list[str] = json.loads(run("docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return found


def layers(tag: str) -> dict[str, int]:
    """The bytes of each layer that a build with BuildKit added, by digest, first that of the last stage's RUN."""
    line = '{"by": {{json .CreatedBy}}, "size": {{json .Size}}}'
    told = run("docker", "history", "--no-trunc", "--human=false", "--format", line, tag).splitlines()
    made = [step for step in map(json.loads, reversed(told)) if step["by"].startswith(("RUN", "COPY", "WORKDIR"))]
    return {digest: int(step["size"]) for digest, step in zip(digests(tag)[-len(made) :], made, strict=True)}


def inside(tag: str, script: str) -> str:
    return run("docker", "run", "--rm", *LOCKED_DOWN, tag, "sh", "-c", script)


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
    assert inside(tag, "ls") == "config.yaml\nengine\ngreeting.txt\nmodel"
    assert inside(tag, "cat greeting.txt") == inside(tag, 'printf %s "$GREETING"') == "a\"b\\c $HOME ${X} 'q' #é"
    assert inside(tag, "id -u") == "1000"
    ours = "/app /engine /weights /trtpack"
    assert inside(tag, f"! grep -r sesame {ours} && ! touch x 2>/dev/null && echo clean") == "clean"
    assert (
        run("docker", "run", "--rm", "--user", "0", tag, "sh", "-c", "ls -A /tmp /mnt /root/.cache 2>/dev/null || true")
        == "/mnt:\n\n/tmp:"
    )
    engine = json.loads(inside(tag, "cat engine/engine.json"))
    version = inside(tag, "python -c 'import torch; print(torch.__version__)'")
    assert version.split("+")[0] == engine["backend"]["version"]


def test_it_brings_no_tool_to_build_or_install_with(tag: str) -> None:
    assert inside(tag, "which pip pip3 uv wheel gcc g++ cc clang make || echo none") == "none"
    for python in ("python", "/venv/bin/python -I", "$(readlink -f /venv/bin/python) -I"):
        for module in ("pip", "setuptools", "wheel", "ensurepip"):
            assert inside(tag, f"! {python} -c 'import {module}' 2>/dev/null && echo absent") == "absent", module
    unwanted = [f"-name '{name}'" for name in ("*.h", "*.hpp", "*.cuh", "*.a", "*.cmake", "*.whl", "test", "tests")]
    assert inside(tag, f"find /venv /trtpack /app {' -o '.join(unwanted)}") == ""
    caches = "-path '*/.cache/*' -o -path '*/apt/lists/*_*' -o -path '*/apt/archives/*.deb'"
    assert run("docker", "run", "--rm", "--user", "0", tag, "find", "/", "-xdev", *shlex.split(caches)) == ""


def test_it_says_what_it_is(tag: str, package: Path) -> None:
    labels = json.loads(run("docker", "image", "inspect", "--format", "{{json .Config.Labels}}", tag))
    engine = hashlib.sha256((package / "engine" / "engine.json").read_bytes()).hexdigest()
    assert labels["trtpack.engine"] == f"sha256:{engine}"
    assert labels["org.opencontainers.image.title"] == "tiny"
    assert json.loads(run("docker", "image", "inspect", "--format", "{{json .Config.Volumes}}", tag)) == {"/tmp": {}}


def test_what_it_adds_to_its_base_image_is_small(tag: str) -> None:
    """Torch and all, engine aside, which is a megabyte here."""
    assert 100e6 < sum(layers(tag).values()) < 900e6


def test_the_same_again_without_a_cache(tag: str, build: Callable[..., str], package: Path, tmp_path: Path) -> None:
    """All but the layer of deletions, which have the time that they were made at, and that of build_commands.

    What was installed with a secret is the same as without: the secret is in no layer.
    """
    (tmp_path / "pip.conf").write_text("[global]\nretries = 3\n")
    again = build(package, no_cache=True, secrets=[f"id=pip,src={tmp_path / 'pip.conf'}"])
    sizes = layers(tag)
    differing = [a for a, b in zip(digests(tag), digests(again), strict=True) if a != b]
    assert len(differing) <= 2
    assert sum(sizes[digest] for digest in differing) < 100e3
    assert inside(again, "test ! -s /etc/pip.conf && echo none") == "none"


def test_a_changed_model_changes_a_few_kilobytes(tag: str, build: Callable[..., str], package: Path) -> None:
    model = package / "model" / "model.py"
    text = model.read_text()
    try:
        model.write_text(f"{text}# changed\n")
        changed = layers(build(package))
    finally:
        model.write_text(text)
    new = {digest: size for digest, size in changed.items() if digest not in digests(tag)}
    assert new
    assert sum(new.values()) < 100e3


def test_a_builder_without_buildkit_builds_the_same(
    tag: str, build: Callable[..., str], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    plain = build(package)
    assert inside(plain, "cat greeting.txt") == inside(tag, "cat greeting.txt")
    ours = [digest for digest, size in layers(tag).items() if size > 100e3]
    assert set(ours) <= set(digests(plain))


def test_air_gapped_from_a_folder_of_wheels(build: Callable[..., str], tmp_path: Path) -> None:
    """With no network at all, and a certificate that the server is to trust."""
    package, wheels = tmp_path / "package", tmp_path / "wheels"
    (package / "model").mkdir(parents=True)
    (package / "model" / "model.py").write_text("class Model:\n    def predict(self, inputs):\n        return inputs\n")
    (package / "config.yaml").write_text("model_name: small\npython_version: py311\n")
    image.write_context(package, load(package), tmp_path / "context")
    lock = tmp_path / "context" / "build" / "requirements.lock"
    fetch = ["pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    fetch += ["--python-version", "3.11", f"--platform=manylinux2014_{machine()}"]
    fetch += [f"--platform=manylinux_2_{minor}_{machine()}" for minor in range(17, 37)]  # Debian 12 has glibc 2.36
    run(sys.executable, "-m", *fetch, "--dest", str(wheels), "--requirement", str(lock))
    certificate = tmp_path / "own.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n")
    tag = build(package, network="none", wheels=wheels, ca_cert=certificate, trust_ca=True)
    assert inside(tag, "tail -n 3 $SSL_CERT_FILE") == certificate.read_text().strip()
    assert inside(tag, "ls -d /wheels /build 2>/dev/null || echo none").splitlines()[-1] in ("none", "/wheels")
    with running_here(tag, tmp_path / "log") as server:
        assert server.predict(a=1).read() == b'{"a":1}'


@contextmanager
def running_here(image: str, log: Path, *arguments: str) -> Iterator[Server]:
    """`trtpack run`, once it is ready; Ctrl-C must stop it and leave no container."""
    command = [*TRTPACK, "run", image, "--port", "0", *arguments]
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, preexec_fn=interruptible) as tool,
    ):
        assert tool.stdout
        try:
            line = tool.stdout.readline()
            assert line.startswith(f"serving {image} at http://"), log.read_text()
            yield Server(line.split()[-1])
        finally:
            tool.send_signal(signal.SIGINT)
            tool.wait(60)
    assert tool.returncode == 130
    assert run("docker", "ps", "--all", "--quiet", "--filter", f"ancestor={image}") == ""


def test_run_starts_it_and_ctrl_c_stops_it(tag: str, tmp_path: Path) -> None:
    with running_here(tag, tmp_path / "log") as server:
        assert server.ready()
        with server.predict(prompt="the quick", max_new_tokens=4) as response:
            assert list(json.load(response)) == ["output"]
    log = (tmp_path / "log").read_text()
    assert "Executing model.load()..." in log
    assert "Stopping when 0 running requests are complete" in log or "Stopping trtpack-" in log


def test_run_says_why_it_does_not_start(tag: str) -> None:
    done = trtpack("run", tag, "--port", "0", "--device", "cpu", "--env", "TRTPACK_DEVICE=cuda")
    assert done.returncode == 1
    assert "error: the container ended with exit code 1: Cannot load the model:" in done.stderr
    assert "Traceback" not in done.stderr
    assert run("docker", "ps", "--all", "--quiet", "--filter", f"ancestor={tag}") == ""


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
