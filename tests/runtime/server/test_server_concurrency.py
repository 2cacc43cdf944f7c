"""runtime.predict_concurrency: never more predictions at once, never silently fewer, and no endless queue."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from runtime.server.app import State, create_app
from runtime.server.model import Model

COUNTING = """
    import asyncio, threading, time
    class Model:
        running = most = 0
        lock = threading.Lock()
        def enter(self, by):
            with self.lock:
                self.running += by
                self.most = max(self.most, self.running)
        def preprocess(self, inputs):
            return inputs
        async def is_healthy(self):
            return True
        def predict(self, inputs):
            if inputs == "most": return self.most
            return self.stream() if inputs == "stream" else self.sleep()
        def sleep(self):
            self.enter(1)
            time.sleep(0.4)
            self.enter(-1)
            return self.most
        async def stream(self):
            self.enter(1)
            yield "a"
            await asyncio.sleep(0.3)
            self.enter(-1)
            yield "b"
"""


def test_one_at_a_time_by_default_streams_included(start):
    served = start(COUNTING).connect().ready()
    started = time.monotonic()
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(served.predict, ["sleep", "stream", "sleep", "stream"]))
    assert time.monotonic() - started > 1.3
    assert [answer.status_code for answer in answers] == [200] * 4
    assert served.predict("most").json() == 1


def test_a_thread_given_up_by_its_client_still_counts(start):
    served = start(COUNTING).connect().ready()
    with pytest.raises(httpx.ReadTimeout):
        served.predict("sleep", timeout=0.1)
    assert served.predict("sleep").json() == 1


def test_many_synchronous_predictions_run_at_once(start):
    served = start(COUNTING, "runtime: {predict_concurrency: 50}").connect().ready()
    limits = httpx.Limits(max_connections=None)
    with (
        httpx.Client(base_url=served.client.base_url, limits=limits, timeout=10) as client,
        ThreadPoolExecutor(50) as pool,
    ):
        list(pool.map(lambda _: client.post("/v1/models/model:predict", json="sleep"), range(50)))
    assert served.predict("most").json() == 50


class Gated:
    """Predictions, or their preprocess, that end when the gate opens."""

    def __init__(self, *, early: bool = False) -> None:
        self.gate = asyncio.Event()
        self.begun = 0
        self._early = early

    async def preprocess(self, inputs: object) -> object:
        if self._early:
            await self._wait()
        return inputs

    async def predict(self, inputs: object) -> object:
        if inputs == "stream":
            return self._stream()
        if not self._early:
            await self._wait()
        return inputs

    async def _wait(self) -> None:
        self.begun += 1
        await self.gate.wait()

    async def _stream(self) -> AsyncIterator[str]:
        await self._wait()
        yield "stream"


def client_of(model: Model) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(State(model))), base_url="http://server")


async def fill(client: httpx.AsyncClient, count: int, inputs: object = "x") -> list[asyncio.Task[httpx.Response]]:
    """Requests that are all in the server, and cannot be answered yet."""
    tasks = [asyncio.create_task(client.post("/v1/models/model:predict", json=inputs)) for _ in range(count)]
    for _ in range(50):
        await asyncio.sleep(0)
    return tasks


async def test_beyond_1024_waiting_predictions_one_more_is_refused() -> None:
    await refuse_one_more(Model(gated := Gated(), 2), gated, 2 + 1024)
    assert gated.begun == 2 + 1024 + 1


async def test_predictions_in_preprocess_wait_too() -> None:
    await refuse_one_more(Model(gated := Gated(early=True), 2, max_waiting=3), gated, 2 + 3)


async def refuse_one_more(model: Model, gated: Gated, most: int) -> None:
    async with client_of(model) as client:
        tasks = await fill(client, most)
        refused = await client.post("/v1/models/model:predict", json="x")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json() == {"error": f"{most} predictions run or wait already; try again later"}
        gated.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {200}
        assert (await client.post("/v1/models/model:predict", json="x")).status_code == 200


async def test_clients_that_leave_make_room() -> None:
    gated = Gated()
    async with client_of(Model(gated, 1, max_waiting=1)) as client:
        tasks = await fill(client, 2, "stream")
        assert (await client.post("/v1/models/model:predict", json="x")).status_code == 429
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gated.gate.set()
        assert (await client.post("/v1/models/model:predict", json="stream")).text == "stream"


async def test_failed_predictions_make_room() -> None:
    class Failing:
        async def predict(self, inputs: object) -> object:
            raise ValueError(inputs)

    async with client_of(Model(Failing(), 1, max_waiting=1)) as client:
        answers = [await client.post("/v1/models/model:predict", json="x") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [500] * 4
