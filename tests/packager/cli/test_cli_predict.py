"""`trtpack predict`, against a small HTTP server that answers as the test tells it to."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from packager.cli import main
from tests.command import interruptible


@dataclass
class Server:
    """What it was asked, and how it answers: `body` whole, or `chunks`; `cut` ends the connection without the last."""

    port: int
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    chunks: list[bytes] = field(default_factory=list)
    cut: bool = False
    before_chunk: Callable[[int], object] = id
    paths: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)

    def predict(self, *args: str, **kwargs: Any) -> Result:
        url = f"http://127.0.0.1:{self.port}"
        return CliRunner().invoke(main, ["predict", "--url", url, *args], **kwargs)

    def start(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from packager import main; main()", "predict", *args]
        url = ["--url", f"http://127.0.0.1:{self.port}"]
        return subprocess.Popen(
            [*command, *url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=interruptible,
        )

    def answer_json(self, value: object, status: int = 200, **headers: str) -> None:
        self.status, self.content_type, self.body = status, "application/json", json.dumps(value).encode()
        self.headers = headers


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            return

        def do_POST(self) -> None:
            state.paths.append(self.path)
            state.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(state.status)
            self.send_header("content-type", state.content_type)
            for name, value in state.headers.items():
                self.send_header(name, value)
            if state.body is not None:
                self.send_header("content-length", str(len(state.body)))
                self.end_headers()
                self.wfile.write(state.body)
                return
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.close_connection = state.cut
            with suppress(BrokenPipeError):  # the client may have been interrupted
                for index, chunk in enumerate(state.chunks):
                    state.before_chunk(index)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                if not state.cut:
                    self.wfile.write(b"0\r\n\r\n")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state = Server(http.server_port)
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        http.shutdown()


def test_the_answer_streams_and_characters_may_be_cut_between_chunks(server: Server) -> None:
    text = "Un vent — 北風 🌬"
    server.chunks = [bytes([byte]) for byte in text.encode()]
    result = server.predict("What is a mistral?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{text}\n", "")
    assert server.paths == ["/v1/models/model:predict"]
    assert server.bodies == [{"messages": [{"role": "user", "content": "What is a mistral?"}], "streaming": True}]


def test_each_chunk_is_printed_before_the_next_one_comes(server: Server) -> None:
    """The server sends its second chunk only when the first one has come out of the command."""
    printed = threading.Event()
    server.chunks = [b"first", b" second"]
    in_time: list[bool] = []
    server.before_chunk = lambda index: in_time.append(printed.wait(10)) if index else None
    with server.start("hi") as process:
        assert process.stdout and process.stdout.read(5) == "first"
        printed.set()
        assert (process.stdout.read(), process.wait(10), in_time) == (" second\n", 0, [True])


def test_every_option_is_on_the_wire(server: Server) -> None:
    server.answer_json({"output": "x"})
    sampling = ["--max-new-tokens", "9", "--temperature", "0", "--top-k", "4", "--top-p", "0.5", "--seed", "0"]
    server.predict("hi", "--system", "Be brief.", "--model", "a/b", "--stop", "\n", "--stop", "END", *sampling)
    assert server.paths == ["/v1/models/a%2Fb:predict"]
    assert server.bodies == [
        {
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
            "max_new_tokens": 9,
            "temperature": 0.0,
            "top_k": 4,
            "top_p": 0.5,
            "seed": 0,
            "stop": ["\n", "END"],
            "streaming": True,
        }
    ]


def test_raw_sends_the_prompt_as_it_is_and_a_dash_reads_stdin(server: Server) -> None:
    server.chunks = [b"x"]
    server.predict("-", "--raw", input="Once\nupon a time\n")
    assert server.bodies == [{"prompt": "Once\nupon a time", "streaming": True}]


@pytest.mark.parametrize(("option", "printed"), [("--no-stream", "É\n"), ("--json", '{"output": "É", "n": 1}\n')])
def test_whole_answers(server: Server, option: str, printed: str) -> None:
    server.answer_json({"output": "É", "n": 1})
    assert server.predict("hi", option).stdout == printed
    assert server.bodies[0]["streaming"] is False


def test_an_answer_of_another_shape_is_printed_as_json(server: Server) -> None:
    server.answer_json([1, 2])
    assert server.predict("hi").stdout == "[1, 2]\n"


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (400, {}, "error: the server answered 400: max_new_tokens: too many\n"),
        (503, {}, "error: the server answered 503: max_new_tokens: too many\n"),
        (429, {"retry-after": "3"}, "error: the server answered 429: max_new_tokens: too many\n  Try again in 3 s.\n"),
    ],
)
def test_the_servers_own_message(server: Server, status: int, headers: dict[str, str], error: str) -> None:
    server.answer_json({"error": "max_new_tokens: too many"}, status, **headers)
    result = server.predict("hi")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", error)


@pytest.mark.parametrize(("body", "told"), [(b"<html>\nlong", "<html>"), (b"", "Bad Gateway"), (b"[]", "[]")])
def test_an_error_that_is_not_ours(server: Server, body: bytes, told: str) -> None:
    server.status, server.body = 502, body
    assert server.predict("hi").stderr == f"error: the server answered 502: {told}\n"


def test_a_redirect_is_no_answer(server: Server) -> None:
    server.status, server.body, server.headers = 301, b"Moved", {"location": "https://elsewhere"}
    result = server.predict("hi")
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_stream_cut_midway_fails(server: Server) -> None:
    server.chunks, server.cut = [b"half an "], True
    result = server.predict("hi")
    assert result.exit_code == 1
    assert result.stdout == "half an \n"
    assert result.stderr.splitlines()[0].startswith("error: the server broke off its answer")


def test_json_that_is_none(server: Server) -> None:
    server.content_type, server.body = "application/json", b"{"
    result = server.predict("hi")
    assert (result.exit_code, result.stderr.startswith("error: the server's answer is not JSON")) == (1, True)


def test_nobody_there_names_serve() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = CliRunner().invoke(main, ["predict", "hi", "--url", f"http://127.0.0.1:{port}"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0].startswith(f"error: no server answers at http://127.0.0.1:{port}")
    assert result.stderr.splitlines()[1] == "  Start one with: trtpack serve"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["hi", "--system", "a", "--raw"],
        ["hi", "--temperature", "-1"],
        ["hi", "--top-p", "0"],
        ["hi", "--max-new-tokens", "0"],
        ["hi", "--url", "localhost:8080"],
        ["hi", "--url", "http://[::1"],
    ],
)
def test_wrong_usage(args: list[str]) -> None:
    result = CliRunner().invoke(main, ["predict", *args])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 2)


def test_a_proxy_does_not_come_between_it_and_this_machine(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.chunks = [b"x"]
    assert server.predict("hi").stdout == "x\n"


def test_ctrl_c_ends_it_with_130(server: Server) -> None:
    gone = threading.Event()
    server.chunks = [b"first", b"never"]
    server.before_chunk = lambda index: index and gone.wait(10)
    with server.start("hi") as process:
        assert process.stdout and process.stdout.read(5) == "first"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=10)
    gone.set()
    assert (process.returncode, error) == (130, "\ninterrupted\n")
