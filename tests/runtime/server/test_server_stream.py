"""Answers that come in chunks, and clients that leave before the end."""

import json

import httpx
import pytest

MODEL = '''
    import asyncio, contextvars, pathlib, threading, time
    from fastapi import HTTPException
    from fastapi.responses import StreamingResponse
    from runtime.errors import QueueFullError

    class Model:
        """Its events are the lines that clients cannot see."""
        def event(self, text):
            print(text, flush=True, file=self.events)

        def load(self): self.events, self.told = open("events", "w"), threading.Semaphore(0)

        async def predict(self, inputs):
            match inputs["kind"]:
                case "async": return self.ticks(inputs["count"])
                case "sync": return self.sync_ticks(inputs["count"])
                case "response": return StreamingResponse(self.ticks(inputs["count"]), media_type="text/event-stream")
                case "told async": return self.steps()
                case "told sync": return self.sync_steps()
                case "told response": return StreamingResponse(self.steps(), media_type="text/event-stream")
                case "on": self.told.release()
                case "unary": return await self.unary()
                case "bytes": return iter([b"\\xff", b"\\xfe"])
                case "text": return iter(["é", "\\ud83d", ""])
                case "empty": return iter([])
                case "wrong": return iter([{}])
                case "early": return self.early()
                case "late": return self.late()
                case "threads": return self.threads()
                case "silent": return self.silent()

        async def ticks(self, count):
            try:
                for number in range(count):
                    yield f"{number} "
                    await asyncio.sleep(0.1)
            finally:
                self.event("closed async")

        def sync_ticks(self, count):
            try:
                for number in range(count):
                    yield f"{number} "
                    time.sleep(0.1)
            finally:
                self.event("closed sync")

        async def steps(self):
            for number in range(4):
                yield f"{number} "
                await asyncio.to_thread(self.told.acquire)

        def sync_steps(self):
            for number in range(4):
                yield f"{number} "
                self.told.acquire()

        async def unary(self):
            try:
                await asyncio.sleep(30)
            finally:
                self.event("closed unary")

        async def early(self):
            raise QueueFullError("full")
            yield

        async def late(self):
            yield "a "
            raise ValueError("engine on fire")

        async def silent(self):
            try:
                await asyncio.sleep(1.5)
                yield "first, late "
                await asyncio.sleep(30)
            finally:
                self.event("closed silent")

        def threads(self):
            for _ in range(5): yield f"{threading.get_ident()} "
'''


@pytest.fixture(scope="module")
def served(start):
    return start(MODEL, "runtime: {predict_concurrency: 8, streaming_read_timeout: 1}").connect().ready()


def requests_with(served, status):
    text = served.client.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("trtpack_http_requests_total") and status in line]
    return sum(float(line.split()[-1]) for line in lines)


@pytest.mark.parametrize("kind", ["async", "sync", "response"])
def test_chunks_arrive_as_they_are_made(served, kind):
    """Each is made when the one before has arrived, and no sooner."""
    arrived = []
    with served.client.stream("POST", "/v1/models/model:predict", json={"kind": f"told {kind}"}) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        for text in answer.iter_text():
            arrived.append(text)
            served.predict({"kind": "on"})
    assert arrived == ["0 ", "1 ", "2 ", "3 "]


@pytest.mark.parametrize(
    ("kind", "content", "media_type"),
    [
        ("text", "é?".encode(), "text/plain; charset=utf-8"),
        ("bytes", b"\xff\xfe", "application/octet-stream"),
        ("empty", b"", "text/plain; charset=utf-8"),
    ],
)
def test_media_types(served, kind, content, media_type):
    answer = served.predict({"kind": kind})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, content, media_type)


def test_gathered_for_a_client_that_accepts_json_only(served):
    answer = served.predict({"kind": "async", "count": 2}, headers={"accept": "application/json"})
    assert answer.json() == "0 1 "
    failed = served.predict({"kind": "late"}, headers={"accept": "application/json"})
    assert (failed.status_code, failed.json()) == (500, {"error": "Internal Server Error (in model)"})


def test_failure_before_the_first_chunk_has_its_own_status(served):
    answer = served.predict({"kind": "early"})
    assert (answer.status_code, answer.json()) == (429, {"error": "full"})
    assert served.predict({"kind": "wrong"}).status_code == 500
    assert "the model's stream gave a dict; yield str or bytes" in served.log


def test_failure_in_the_middle_never_looks_complete(served):
    before = requests_with(served, 'status="500"')
    chunks = []
    with (
        pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"),
        served.client.stream("POST", "/v1/models/model:predict", json={"kind": "late"}) as answer,
    ):
        chunks.extend(answer.iter_text())
    assert chunks == ["a "]
    assert "ValueError: engine on fire" in served.log
    assert "ASGI" not in served.log
    assert requests_with(served, 'status="500"') == before + 1


def test_a_stream_that_falls_silent_is_given_up(served, events):
    """runtime.streaming_read_timeout, here 1 s; the wait for the first chunk does not count."""
    chunks = []
    with (
        pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"),
        served.client.stream("POST", "/v1/models/model:predict", json={"kind": "silent"}) as answer,
    ):
        chunks.extend(answer.iter_text())
    assert chunks == ["first, late "]
    assert "stream was silent for 1 s" in served.log
    assert "closed silent" in events()


def test_synchronous_generator_keeps_its_thread(served):
    assert len(set(served.predict({"kind": "threads"}).text.split())) == 1


@pytest.mark.parametrize(("kind", "closed"), [("async", "async"), ("sync", "sync"), ("response", "async")])
def test_disconnect_closes_the_generator(served, events, kind, closed):
    before, left = events().count(f"closed {closed}"), requests_with(served, 'status="499"')
    with served.client.stream("POST", "/v1/models/model:predict", json={"kind": kind, "count": 300}) as answer:
        next(answer.iter_text())
    served.until(lambda: events().count(f"closed {closed}") == before + 1, seconds=1)
    served.until(lambda: requests_with(served, 'status="499"') == left + 1, seconds=1)


def test_disconnect_cancels_a_unary_prediction(served, events):
    with pytest.raises(httpx.ReadTimeout):
        served.predict({"kind": "unary"}, timeout=0.2, headers={"x-request-id": "left"})
    served.until(lambda: "closed unary" in events(), seconds=1)
    served.until(lambda: '"request_id": "left"' in served.log, seconds=1)
    [record] = [json.loads(line) for line in served.log.splitlines() if '"request_id": "left"' in line]
    assert (record["status"], record["severity"]) == (499, "INFO")


@pytest.fixture
def events(served):
    return lambda: (served.package / "events").read_text()


def test_postprocess_may_wrap_the_stream(start):
    served = start("""
        class Model:
            def predict(self, inputs):
                yield from ("a", "b")
            def postprocess(self, stream):
                for text in stream: yield text.upper()
        """).connect()
    assert served.ready().predict({}).text == "AB"
