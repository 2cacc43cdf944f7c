"""A built image as a container on this machine, as locked down as its pods in the cluster are."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from subprocess import PIPE, STDOUT, Popen
from threading import Thread
from typing import IO
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from packager.errors import TrtpackError
from packager.image.client import Client

# As templates/k8s/deployment.yaml.j2 has it. A volume in the cluster lets files be executed, a tmpfs of Docker does
# not unless told: compiled kernels are loaded from there.
LOCKED_DOWN = (
    *("--read-only", "--user", "1000:1000", "--tmpfs", "/tmp:exec"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
PORT = 8080
_PUBLISHED = f'{{{{with index .NetworkSettings.Ports "{PORT}/tcp"}}}}{{{{(index . 0).HostPort}}}}{{{{end}}}}'
_POLL_SECONDS = 0.25
_STOP_SECONDS = 30
Told = Callable[[str], None]


@dataclass(frozen=True)
class Container:
    """`url` is where its server answers, once it is ready."""

    client: Client
    name: str
    url: str

    def wait(self, told: Told) -> None:
        """Until it is ready; `told` gets each line of its log meanwhile. Raises TrtpackError if it ends before."""
        with self._followed(told) as log, httpx.Client(trust_env=False, timeout=5) as http:
            while not _answers(http, f"{self.url}/v1/models/model"):
                if not self.running:
                    log.join(5)
                    raise self._ended(log.last)
                time.sleep(_POLL_SECONDS)

    def follow(self, told: Told) -> None:
        """Until it ends. Raises TrtpackError where it fails."""
        with self._followed(told, since="0s") as log:
            log.join()
        if self._state("ExitCode") != "0":
            raise self._ended(log.last)

    @property
    def running(self) -> bool:
        return self._state("Running") == "true"

    def remove(self) -> None:
        """Lets running answers finish, then removes it."""
        self.client.ask("stop", "--time", str(_STOP_SECONDS), self.name)
        self.client.ask("rm", self.name)

    def _state(self, field: str) -> str:
        return self.client.ask("inspect", "--format", f"{{{{.State.{field}}}}}", self.name)

    def _ended(self, last: str) -> TrtpackError:
        memory = self._state("OOMKilled") == "true"
        why = "it ran out of memory" if memory else last or "its log is empty"
        return TrtpackError(f"the container ended with exit code {self._state('ExitCode')}: {why}")

    @contextmanager
    def _followed(self, told: Told, since: str = "") -> Iterator["_Log"]:
        command = [self.client.path, "logs", "--follow", *(["--since", since] if since else []), self.name]
        with Popen(command, env=self.client.environment, stdout=PIPE, stderr=STDOUT, text=True) as process:
            assert process.stdout
            log = _Log(process.stdout, told)
            log.start()
            try:
                yield log
            finally:
                process.terminate()


class _Log(Thread):
    """Reads a container's log; `last` is the last line that says what failed, or the last of all."""

    def __init__(self, lines: IO[str], told: Told) -> None:
        super().__init__(daemon=True)
        self._lines, self._told = lines, told
        self._failure = self._latest = ""

    @property
    def last(self) -> str:
        return self._failure or self._latest

    def run(self) -> None:
        for line in self._lines:
            text, failed = _read(line)
            self._latest = text or self._latest
            if failed:
                self._failure = text
            self._told(text)


def start(client: Client, image: str, *, port: int, gpus: str | None, options: Sequence[str] = ()) -> Container:
    """Starts the image; `port` 0 takes a free one. `gpus` and `options` as of `docker run`. Raises TrtpackError."""
    address, host = _addresses()
    name = f"trtpack-{uuid4().hex[:8]}"
    command = ["run", "--detach", "--name", name, *LOCKED_DOWN, "--publish", f"{address}:{port or ''}:{PORT}"]
    command += ["--gpus", gpus, "--shm-size", "1g"] if gpus else []
    try:
        client.ask(*command, *options, image)
        published = client.ask("inspect", "--format", _PUBLISHED, name)
    except TrtpackError:
        with suppress(TrtpackError):
            client.ask("rm", "--force", name)
        raise
    return Container(client, name, f"http://{host}:{published or port}")


def _addresses() -> tuple[str, str]:
    """What a port is published on, and the host that it is reached at: this machine's own unless the engine is afar."""
    parts = urlsplit(os.environ.get("DOCKER_HOST", ""))
    remote = parts.scheme in ("tcp", "ssh", "http", "https") and parts.hostname not in (None, "localhost", "127.0.0.1")
    return ("0.0.0.0", parts.hostname or "") if remote else ("127.0.0.1", "127.0.0.1")


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).is_success
    except httpx.HTTPError:
        return False


def _read(line: str) -> tuple[str, bool]:
    """What a line of the server's log says (runtime.server.logs), and whether it is of a failure."""
    text = line.rstrip("\n")
    try:
        record = json.loads(text)
        return str(record["message"]), record["severity"] in ("ERROR", "CRITICAL")
    except (ValueError, KeyError, TypeError):
        return text, text.startswith("error:")
