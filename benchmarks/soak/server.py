"""The server under load: a package with a small KV cache, served by `trtpack serve` in a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copy

import httpx
import torch
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.cpu import smollm2
from runtime.engine import manifest
from runtime.engine.engine import BLOCK_SIZE
from runtime.engine.manifest import DType
from runtime.kernels.attention import KVCache

PREDICT = "/v1/models/model:predict"
# The fewest that hold one request of MAX_MODEL_LEN: a batch of dozens cannot all stay.
BLOCKS = smollm2.MAX_MODEL_LEN // BLOCK_SIZE
# The server's process looks for `runtime` there first, and not where trtpack may be installed from.
_ROOT = Path(__file__).parents[2]
_TRTPACK = [sys.executable, "-c", "from packager import main; main()"]
_READY_SECONDS, _STOP_SECONDS = 120, 60


class Server:
    """A running server; `exit_code` is there once it has stopped."""

    def __init__(self, package: Path) -> None:
        self._log = package / "server.log"
        command = [*_TRTPACK, "serve", str(package), "--port", "0", "--device", "cpu"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(_ROOT)}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.exit_code: int | None = None
        self.url = self._ready()

    def resident_bytes(self) -> int:
        """Of its physical memory; 0 once it is gone."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples of that name that have these labels."""
        text = httpx.get(f"{self.url}/metrics").text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def stats(self) -> dict[str, int]:
        """runtime.llm.Stats."""
        answer: dict[str, int] = httpx.post(self.url + PREDICT, json={"stats": True}).raise_for_status().json()
        return answer

    def errors(self) -> list[str]:
        """The messages of its log that are errors."""
        lines = (json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{"))
        return [line["message"] for line in lines if line["severity"] in ("ERROR", "CRITICAL")]

    def stop(self) -> None:
        self._process.terminate()
        try:
            self.exit_code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_code = self._process.wait()

    def _ready(self) -> str:
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            text = self._log.read_text()
            if "Completed model.load()" in text:
                return next(word.rstrip('",') for word in text.split() if word.startswith("http://"))
            time.sleep(0.2)
        self._process.kill()
        raise RuntimeError(f"the server was not ready in {_READY_SECONDS} s:\n{self._log.read_text()}")


@contextmanager
def serving(dtype: DType) -> Iterator[Server]:
    """SmolLM2, compiled and served; stopped by SIGTERM at the end."""
    with smollm2.engine(dtype) as engine:
        server = Server(_package(engine, dtype))
        try:
            yield server
        finally:
            server.stop()


def _package(engine: Path, dtype: DType) -> Path:
    """Around the engine."""
    package = engine.parent
    model = manifest.read(engine).model.config
    config = {
        "model_name": "soak",
        "engine": {"checkpoint": str(smollm2.gguf()), "dtype": dtype},
        "runtime": {"predict_concurrency": 256},
        "model_metadata": {
            "kv_cache_bytes": BLOCKS * KVCache.block_bytes(model, BLOCK_SIZE, getattr(torch, dtype)),
        },
    }
    (package / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (package / "model").mkdir()
    copy(Path(__file__).with_name("model.py"), package / "model")
    return package
