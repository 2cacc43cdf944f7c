"""One start of a container, from `docker run` to the first token of an answer."""

import json
import subprocess
from dataclasses import dataclass
from time import monotonic, sleep

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.image.docker import docker

PREDICT = "/v1/models/model:predict"
# What a cluster that trusts no image allows it.
LOCKED_DOWN = ("--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp")
_READY_SECONDS, _LOOK_SECONDS = 600, 0.01


@dataclass(frozen=True)
class Start:
    """Seconds since `docker run` was called; `phases` are the server's own, `log` its line about them."""

    started: float
    ready: float
    first_token: float
    phases: dict[str, float]
    log: str


def start(tag: str, environment: list[str]) -> Start:
    """Runs the image until it has streamed an answer, and removes the container."""
    options = [word for variable in environment for word in ("--env", variable)]
    began = monotonic()
    container = docker("run", "--detach", *LOCKED_DOWN, *options, "--publish", "127.0.0.1::8080", tag)
    try:
        started = monotonic() - began
        with httpx.Client(base_url=f"http://{docker('port', container, '8080/tcp').split()[0]}", timeout=60) as client:
            _wait(client, container)
            ready = monotonic() - began
            first_token = _first_chunk(client) - began
            return Start(started, ready, first_token, _phases(client), _line(container))
    finally:
        docker("rm", "--force", container)


def _wait(client: httpx.Client, container: str) -> None:
    end = monotonic() + _READY_SECONDS
    while not _ready(client):
        if monotonic() > end or docker("inspect", "--format", "{{.State.Running}}", container) != "true":
            raise RuntimeError(f"the container was not ready:\n{_log(container)}")
        sleep(_LOOK_SECONDS)


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/v1/models/model").is_success
    except httpx.TransportError:
        return False


def _first_chunk(client: httpx.Client) -> float:
    """When the first piece of an answer came."""
    inputs = {"prompt": "The capital of France is", "max_new_tokens": 8, "temperature": 0, "stream": True}
    with client.stream("POST", PREDICT, json=inputs) as response:
        response.raise_for_status()
        chunks = response.iter_raw()
        next(chunks)
        arrived = monotonic()
        for _ in chunks:
            pass
    return arrived


def _phases(client: httpx.Client) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return {s.labels["phase"]: s.value for s in samples if s.name == "trtpack_startup_seconds"}


def _line(container: str) -> str:
    messages = [str(json.loads(line)["message"]) for line in _log(container).splitlines() if line.startswith("{")]
    return next(message for message in messages if message.startswith("Ready: "))


def _log(container: str) -> str:
    """The container's both outputs."""
    command = ["docker", "logs", container]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
