"""The real server in a process of its own, on a free loopback port, with a Model written by the test."""

import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

PREDICT = "/v1/models/model:predict"


class Served:
    """A server's process, its log, and a client of it."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self._log = package / "stderr"
        command = [sys.executable, "-m", "runtime.server", "--package", str(package), "--port", "0"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def connect(self) -> "Served":
        """Waits for the port to open."""
        found = self.until(lambda: re.search(r"http://127\.0\.0\.1:(\d+)", self.log))
        self.port = int(found[1])
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10)
        return self

    def until(self, condition: Callable[[], object], seconds: float = 10):
        """The first truthy value of `condition`."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"nothing after {seconds} s; the log:\n{self.log}"
            time.sleep(0.01)
        return value

    def ready(self) -> "Served":
        self.until(lambda: self.client.get("/v1/models/model").status_code == 200)
        return self

    def predict(self, inputs: object, **options) -> httpx.Response:
        return self.client.post(PREDICT, json=inputs, **options)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if client := getattr(self, "client", None):
            client.close()


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a package: the model's source, config.yaml's lines, other files by name."""

    def package(model: str, config: str = "", **files: str) -> Path:
        folder = tmp_path_factory.mktemp("package")
        named = {"model/model.py": model, "config.yaml": f"model_name: test\n{config}"}
        for name, text in (named | files).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(textwrap.dedent(text))
        return folder

    return package


@pytest.fixture(scope="module")
def start(write: Callable[..., Path]) -> Iterator[Callable[..., Served]]:
    """Starts a server of such a package; every one ends with the module."""
    running: list[Served] = []

    def run(model: str, config: str = "", **files: str) -> Served:
        running.append(Served(write(model, config, **files)))
        return running[-1]

    yield run
    for served in running:
        served.stop()
