"""The image, built by a real engine: it starts locked down, answers, streams and stops when told.

And it is the same when it is built again, by BuildKit or without, but for a few kilobytes where model.py changed.

Runs where a Docker engine answers. TESTBED_BASE_IMAGE names a base image other than the default.
"""

import hashlib
import json
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from platform import machine
from typing import Any

import pytest

from packager import image
from packager.config import load
from tests.command import TRTPACK, interruptible, trtpack
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.xdist_group("registry")]

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
def container(tiny_image: str) -> Iterator[str]:
    name = run("docker", "run", "--detach", *LOCKED_DOWN, "--publish", "127.0.0.1::8080", tiny_image)
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
    """Python is process 1 and hears SIGTERM; a shell in between would leave it to be killed, with exit code 137."""
    run("docker", "stop", "--time", "20", container)
    assert run("docker", "inspect", "--format", "{{.State.ExitCode}}", container) == "0"


def test_it_holds_what_it_needs_and_no_secret(tiny_image: str) -> None:
    assert inside(tiny_image, "ls") == "config.yaml\nengine\ngreeting.txt\nmodel"
    assert (
        inside(tiny_image, "cat greeting.txt")
        == inside(tiny_image, 'printf %s "$GREETING"')
        == "a\"b\\c $HOME ${X} 'q' #é"
    )
    assert inside(tiny_image, "id -u") == "1000"
    ours = "/app /engine /weights /trtpack"
    assert inside(tiny_image, f"! grep -r sesame {ours} && ! touch x 2>/dev/null && echo clean") == "clean"
    assert (
        run(
            "docker",
            "run",
            "--rm",
            "--user",
            "0",
            tiny_image,
            "sh",
            "-c",
            "ls -A /tmp /mnt /root/.cache 2>/dev/null || true",
        )
        == "/mnt:\n\n/tmp:"
    )
    engine = json.loads(inside(tiny_image, "cat engine/engine.json"))
    version = inside(tiny_image, "python -c 'import torch; print(torch.__version__)'")
    assert version.split("+")[0] == engine["backend"]["version"]


def test_it_brings_no_tool_to_build_or_install_with(tiny_image: str) -> None:
    assert inside(tiny_image, "which pip pip3 uv wheel gcc g++ cc clang make || echo none") == "none"
    for python in ("python", "/venv/bin/python -I", "$(readlink -f /venv/bin/python) -I"):
        for module in ("pip", "setuptools", "wheel", "ensurepip"):
            assert inside(tiny_image, f"! {python} -c 'import {module}' 2>/dev/null && echo absent") == "absent", module
    unwanted = [f"-name '{name}'" for name in ("*.h", "*.hpp", "*.cuh", "*.a", "*.cmake", "*.whl", "test", "tests")]
    assert inside(tiny_image, f"find /venv /trtpack /app {' -o '.join(unwanted)}") == ""
    caches = "-path '*/.cache/*' -o -path '*/apt/lists/*_*' -o -path '*/apt/archives/*.deb'"
    assert run("docker", "run", "--rm", "--user", "0", tiny_image, "find", "/", "-xdev", *shlex.split(caches)) == ""


def test_it_says_what_it_is(tiny_image: str, tiny_package: Path) -> None:
    labels = json.loads(run("docker", "image", "inspect", "--format", "{{json .Config.Labels}}", tiny_image))
    engine = hashlib.sha256((tiny_package / "engine" / "engine.json").read_bytes()).hexdigest()
    assert labels["trtpack.engine"] == f"sha256:{engine}"
    assert labels["org.opencontainers.image.title"] == "tiny"
    assert json.loads(run("docker", "image", "inspect", "--format", "{{json .Config.Volumes}}", tiny_image)) == {
        "/tmp": {}
    }


def test_what_it_adds_to_its_base_image_is_small(tiny_image: str) -> None:
    """Torch and all, engine aside, which is a megabyte here."""
    assert 100e6 < sum(layers(tiny_image).values()) < 900e6


def test_the_same_again_without_a_cache(
    tiny_image: str, build_image: Callable[..., str], tiny_package: Path, tmp_path: Path
) -> None:
    """All but the layer of deletions, which have the time that they were made at, and that of build_commands.

    What was installed with a secret is the same as without: the secret is in no layer.
    """
    (tmp_path / "pip.conf").write_text("[global]\nretries = 3\n")
    again = build_image(tiny_package, no_cache=True, secrets=[f"id=pip,src={tmp_path / 'pip.conf'}"])
    sizes = layers(tiny_image)
    differing = [a for a, b in zip(digests(tiny_image), digests(again), strict=True) if a != b]
    assert len(differing) <= 2
    assert sum(sizes[digest] for digest in differing) < 100e3
    assert inside(again, "test ! -s /etc/pip.conf && echo none") == "none"


def test_a_changed_model_changes_a_few_kilobytes(
    tiny_image: str, build_image: Callable[..., str], tiny_package: Path
) -> None:
    model = tiny_package / "model" / "model.py"
    text = model.read_text()
    try:
        model.write_text(f"{text}# changed\n")
        changed = layers(build_image(tiny_package))
    finally:
        model.write_text(text)
    new = {digest: size for digest, size in changed.items() if digest not in digests(tiny_image)}
    assert new
    assert sum(new.values()) < 100e3


def test_a_builder_without_buildkit_builds_the_same(
    small_image: str, build_image: Callable[..., str], small_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    plain = build_image(small_package)
    assert inside(plain, "cat greeting.txt") == inside(small_image, "cat greeting.txt") == "hello"
    ours = [digest for digest, size in layers(small_image).items() if size > 100e3]
    assert ours
    assert set(ours) <= set(digests(plain))


def test_air_gapped_from_a_folder_of_wheels(
    build_image: Callable[..., str], small_package: Path, tmp_path: Path
) -> None:
    """With no network at all, and a certificate that the server is to trust."""
    wheels = tmp_path / "wheels"
    image.write_context(small_package, load(small_package), tmp_path / "context")
    lock = tmp_path / "context" / "build" / "requirements.lock"
    fetch = ["pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    fetch += ["--python-version", "3.11", f"--platform=manylinux2014_{machine()}"]
    fetch += [f"--platform=manylinux_2_{minor}_{machine()}" for minor in range(17, 37)]  # Debian 12 has glibc 2.36
    run(sys.executable, "-m", *fetch, "--dest", str(wheels), "--requirement", str(lock))
    certificate = tmp_path / "own.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n")
    tag = build_image(small_package, network="none", wheels=wheels, ca_cert=certificate, trust_ca=True)
    assert inside(tag, "tail -n 3 $SSL_CERT_FILE") == certificate.read_text().strip()
    assert inside(tag, "ls -d /wheels /build 2>/dev/null || echo none").splitlines()[-1] in ("none", "/wheels")
    with running_here(tag, tmp_path / "log") as server:
        assert server.predict(a=1).read() == b'{"a":1}'


def left(image: str) -> str:
    """Containers that `trtpack run` named."""
    return run("docker", "ps", "--all", "--quiet", "--filter", f"ancestor={image}", "--filter", "name=trtpack-")


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
    assert left(image) == ""


def test_run_starts_it_and_ctrl_c_stops_it(tiny_image: str, tmp_path: Path) -> None:
    with running_here(tiny_image, tmp_path / "log") as server:
        assert server.ready()
        with server.predict(prompt="the quick", max_new_tokens=4) as response:
            assert list(json.load(response)) == ["output"]
    log = (tmp_path / "log").read_text()
    assert "Executing model.load()..." in log
    assert "Stopping when 0 running requests are complete" in log or "Stopping trtpack-" in log


def test_run_says_why_it_does_not_start(tiny_image: str) -> None:
    done = trtpack("run", tiny_image, "--port", "0", "--device", "cpu", "--env", "TRTPACK_DEVICE=cuda")
    assert done.returncode == 1
    assert "error: the container ended with exit code 1: Cannot load the model:" in done.stderr
    assert "Traceback" not in done.stderr
    assert left(tiny_image) == ""
