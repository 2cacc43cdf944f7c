"""`trtpack run`, with a docker client that notes how it is called and a server that answers in this process."""

import json
import os
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from packager.cli import main

CLIENT = """#!{python}
import json, os, pathlib, sys, time
folder, arguments = pathlib.Path(os.environ["FAKE"]), sys.argv[1:]
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
state = json.loads((folder / "state").read_text())
if arguments[0] == "version":
    print('{{"Client": {{"Version": "20.10.24"}}, "Server": {{"Version": "20.10.24"}}}}')
elif arguments[0] == "run":
    print(state["refusal"], file=sys.stderr)
    sys.exit(125 if state["refusal"] else 0)
elif arguments[0] == "inspect":
    print(next(state[name] for name in ("Running", "ExitCode", "OOMKilled", "Ports") if name in arguments[2]))
elif arguments[0] == "logs":
    print(*state["logs"], sep="\\n", flush=True)
    time.sleep(5 if state["Running"] == "true" else 0)
"""


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/models/model" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Silent."""


@pytest.fixture
def port() -> Iterator[int]:
    """Where a ready server answers."""
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


class Docker:
    """A client that answers with `state`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, **fields: Any) -> None:
        """Sets what it answers."""
        state = {"Running": "true", "ExitCode": "0", "OOMKilled": "false", "Ports": "1", "logs": [], "refusal": ""}
        (self._folder / "state").write_text(json.dumps(state | fields))

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self._folder / "calls").read_text().splitlines()]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    client = tmp_path / "bin" / "docker"
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable))
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr("packager.cli.run.probe", lambda: None)
    return Docker(tmp_path)


def trtpack(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def test_it_runs_as_in_the_cluster(docker: Docker, port: int) -> None:
    docker(Ports=str(port), logs=['{"severity": "INFO", "message": "Executing model.load()..."}'])
    result = trtpack("r.example/x:1", "--port", "0", "--detach", "--env", "A=1", "--network", "host")
    assert result.exit_code == 0, result.output
    assert f"serving r.example/x:1 at http://127.0.0.1:{port}" in result.stdout
    assert f'trtpack predict "What is a mistral?" --url http://127.0.0.1:{port}' in result.stdout
    (started,) = [call for call in docker.calls() if call[0] == "run"]
    text = " ".join(started)
    for flags in (
        "--detach",
        "--read-only --user 1000:1000 --tmpfs /tmp:exec",
        "--cap-drop ALL --security-opt no-new-privileges",
        "--publish 127.0.0.1::8080",
        "--env TRTPACK_DEVICE=cpu --env A=1 --network host r.example/x:1",
    ):
        assert flags in text
    assert "--gpus" not in text
    assert not [call for call in docker.calls() if call[0] in ("stop", "rm")]


def test_a_package_is_its_image(docker: Docker, port: int, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model_name: My Model\n")
    docker(Ports=str(port))
    assert trtpack(tmp_path, "--detach").exit_code == 0
    (started,) = [call for call in docker.calls() if call[0] == "run"]
    assert started[-1] == "my-model:latest"
    assert "127.0.0.1:8080:8080" in started


def test_the_gpus_go_with_it(docker: Docker, port: int) -> None:
    docker(Ports=str(port))
    assert trtpack("x:1", "--detach", "--device", "cuda").exit_code == 0
    (started,) = [call for call in docker.calls() if call[0] == "run"]
    assert "--gpus all --shm-size 1g x:1" in " ".join(started)
    assert "TRTPACK_DEVICE=cpu" not in started


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"logs": ['{"severity": "ERROR", "message": "Cannot load the model: no engine"}', "bye"]},
            "the container ended with exit code 1: Cannot load the model: no engine",
        ),
        ({"logs": ["exec format error"]}, "the container ended with exit code 1: exec format error"),
        ({"OOMKilled": "true", "ExitCode": "137"}, "the container ended with exit code 137: it ran out of memory"),
    ],
)
def test_one_that_dies_says_why_and_is_removed(docker: Docker, fields: dict[str, Any], message: str) -> None:
    docker(**{"Running": "false", "ExitCode": "1", **fields})
    result = trtpack("x:1")
    assert (result.exit_code, message in result.stderr) == (1, True), result.output
    assert [call[0] for call in docker.calls()][-2:] == ["stop", "rm"]


def test_one_that_cannot_be_started_leaves_nothing(docker: Docker) -> None:
    docker(refusal="Unable to find image 'x:1' locally\ndocker: Error response from daemon: no such host.")
    result = trtpack("x:1")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == "error: docker run: docker: Error response from daemon: no such host."
    assert docker.calls()[-1][:2] == ["rm", "--force"]


def test_an_engine_elsewhere_is_reached_there(docker: Docker, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    docker(Running="false", ExitCode="3")
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@builder.example")
    assert trtpack("x:1").exit_code == 1
    (started,) = [call for call in docker.calls() if call[0] == "run"]
    assert "0.0.0.0:8080:8080" in started
