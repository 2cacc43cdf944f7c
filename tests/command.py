"""The trtpack command in a process of its own, and the server that it becomes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

TRTPACK = [sys.executable, "-c", "from packager import main; main()"]


def interruptible() -> None:
    """For preexec_fn: a job that a shell has put in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def trtpack(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [*TRTPACK, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


@contextmanager
def serving(package: Path, log: Path) -> Iterator[httpx.Client]:
    """A client of `trtpack serve`, once it is ready; it must stop cleanly."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*TRTPACK, "serve", str(package), "--port", "0"], stderr=stderr, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        try:
            yield httpx.Client(base_url=_ready(process, log), timeout=60)
        finally:
            process.terminate()
            assert process.wait(30) == 0


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        url = next((text.split()[-1] for text in _messages(log) if text.startswith("Serving")), None)
        if url and httpx.get(f"{url}/v1/models/model").status_code == 200:
            assert any(re.fullmatch(r"Completed model.load\(\) execution in \d+ ms", text) for text in _messages(log))
            return url
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _messages(log: Path) -> list[str]:
    whole = log.read_text().rpartition("\n")[0]
    return [json.loads(line)["message"] for line in whole.splitlines() if line.startswith("{")]
