"""runtime.predict_concurrency: never more predictions at once, never silently fewer."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

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
