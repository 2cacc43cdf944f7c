"""Signals: what runs is finished, then the process ends; a second signal ends it at once."""

import signal
import socket
import time

import httpx
import pytest

from runtime.server.app import State, create_app
from runtime.server.model import Model

TICKING = """
    import asyncio
    class Model:
        async def predict(self, inputs):
            for number in range(inputs):
                yield f"{number} "
                await asyncio.sleep(0.1)
"""


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_a_stream_ends_it_whole(start, kind):
    served = start(TICKING).connect().ready()
    with served.client.stream("POST", "/v1/models/model:predict", json=5) as answer:
        chunks = answer.iter_text()
        text = next(chunks)
        served.process.send_signal(kind)
        text += "".join(chunks)
    assert text == "0 1 2 3 4 "
    assert served.process.wait(2) == 0
    with pytest.raises(httpx.ConnectError):
        served.client.get("/")
    assert "Traceback" not in served.log


async def test_draining_server_is_not_ready_but_answers():
    class Echo:
        def predict(self, inputs):
            return inputs

    transport = httpx.ASGITransport(create_app(State(Model(Echo(), 1), draining=True)))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        assert (await client.get("/v1/models/model")).status_code == 503
        assert (await client.get("/")).status_code == 200
        assert (await client.post("/v1/models/model:predict", json=[1])).json() == [1]


def test_connection_kept_alive_gets_its_stream_and_is_closed(start):
    served = start(TICKING).connect().ready()
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as kept:
        kept.sendall(b"POST /v1/models/model:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n3")
        answered = kept.recv(4096)
        served.process.send_signal(signal.SIGTERM)
        while received := kept.recv(4096):
            answered += received
    assert answered.startswith(b"HTTP/1.1 200")
    assert answered.endswith(b"2\r\n2 \r\n0\r\n\r\n")
    assert served.process.wait(2) == 0


def test_signal_while_loading_ends_the_process(start):
    served = start("""
        import time
        class Model:
            def load(self): time.sleep(60)
            def predict(self): return 0
        """).connect()
    served.until(lambda: "Executing model.load()..." in served.log)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(2) == 0


def test_second_signal_ends_at_once(start):
    served = start(TICKING).connect().ready()
    with served.client.stream("POST", "/v1/models/model:predict", json=600) as answer:
        chunks = answer.iter_text()
        next(chunks)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert served.process.poll() is None
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(2) == 128 + signal.SIGTERM
