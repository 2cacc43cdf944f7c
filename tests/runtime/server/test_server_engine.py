"""A tiny engine behind the real server, by the model.py that `trtpack init` writes."""

import asyncio
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import model_template
from tests.conftest import TinyEngine
from tests.runtime.server.conftest import PREDICT, Served

TEMPLATE = Path(model_template.__path__[0]) / "model" / "model.py"
LONG = {"prompt": "the quick fox", "max_new_tokens": 480, "temperature": 0, "ignore_eos": True}
SHORT = {"prompt": "the quick fox", "max_new_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def served(start: Callable[..., Served], tiny_engine: TinyEngine) -> Served:
    """Two requests run and four wait; the server itself lets many more in."""
    options = f"{str(tiny_engine(max_batch_size=2))!r}, scheduling=Scheduling(max_waiting=4)"
    source = TEMPLATE.read_text().replace('"engine"', options)
    # One thread: two would wait for each other on a busy machine, for far longer than so small a model computes.
    lines = ("import torch", "torch.set_num_threads(1)", "from runtime.engine.manifest import Scheduling")
    source = source.replace("from runtime.llm", "\n".join((*lines, "from runtime.llm")))
    server = start(source, "runtime: {predict_concurrency: 64}").connect()
    server.until(lambda: server.client.get("/v1/models/model").status_code == 200, 60)
    return server


def metric(served: Served, name: str) -> float:
    found = re.search(rf"^trtpack_{re.escape(name)} (\S+)$", served.client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def idle(served: Served) -> None:
    served.until(lambda: not metric(served, "num_requests_running") and not metric(served, "kv_cache_usage_perc"))


def test_the_stream_joins_to_the_whole(served: Served) -> None:
    whole = served.predict(SHORT)
    assert list(whole.json()) == ["output"]
    assert whole.json()["output"]
    with served.client.stream("POST", PREDICT, json={**SHORT, "stream": True}) as stream:
        assert "".join(stream.iter_text()) == whole.json()["output"]


def test_several_answers_and_their_logprobs_are_json(served: Served) -> None:
    answer = served.predict({**SHORT, "n": 2, "best_of": 3, "temperature": 1, "seed": 3, "logprobs": 2})
    assert [len(each) for each in (answer.json()["outputs"], answer.json()["logprobs"])] == [2, 2]
    assert [len(told["top"]) for told in answer.json()["logprobs"][0]] == [2] * 12
    assert len(served.predict({**SHORT, "beam_width": 3, "n": 2}).json()["outputs"]) == 2


def test_an_answer_held_to_a_schema_is_json_of_that_schema(served: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["b", "c"]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    answer = served.predict({"prompt": "the", "json_schema": schema, "max_new_tokens": 60, "temperature": 0})
    assert json.loads(answer.json()["output"])["a"] in ("b", "c")


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({"adapter": "nobody"}, "nobody"),
        ({"priority": 1}, "first come, first served"),
        ({"regex": "(a"}, "regex: .*unclosed group"),
        ({"stop_token_ids": [320]}, "stop_token_ids: 320 is no token; the vocabulary has 320"),
        ({"max_new_tokens": 512}, "more than max_model_len 512"),
        ({"prompt": "the fox " * 400}, r"has \d+ \w+; max_model_len is 512"),
        ({"timeout": 0}, "timeout: .*greater than 0"),
        ({"temperatur": 1}, "did you mean 'temperature'"),
    ],
)
def test_what_cannot_be_served_is_400_and_says_why(
    served: Served, inputs: dict[str, Any], error: str, streaming: bool
) -> None:
    answer = served.predict({**SHORT, **inputs, "streaming": streaming})
    assert answer.status_code == 400
    assert re.search(error, answer.json()["error"])


@pytest.mark.parametrize("streaming", [True, False])
def test_a_timeout_before_the_first_token_is_504(served: Served, streaming: bool) -> None:
    answer = served.predict({**LONG, "timeout": 1e-6, "streaming": streaming})
    assert answer.status_code == 504
    assert re.fullmatch(r"the request's timeout passed after \d+\.\d s", answer.json()["error"])


def test_a_timeout_of_a_whole_answer_is_504(served: Served) -> None:
    assert served.predict({**LONG, "timeout": 0.1}).status_code == 504
    idle(served)


def test_a_timeout_after_the_stream_began_cuts_it_short_and_frees_its_place(served: Served) -> None:
    """Without the chunk that ends a response, so that nobody takes it for a whole answer."""
    text = ""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        served.client.stream("POST", PREDICT, json={**LONG, "stream": True, "timeout": 0.3}) as stream,
    ):
        assert stream.status_code == 200
        identity = stream.headers["x-request-id"]
        for piece in stream.iter_text():
            text += piece
    assert text
    assert text != served.predict(LONG, timeout=60).json()["output"]

    def told() -> list[str]:
        records = [json.loads(line) for line in served.log.splitlines() if identity in line]
        return [record["message"] for record in records]

    served.until(lambda: any(message.startswith("DeadlineError: the request's timeout passed") for message in told()))
    idle(served)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_full_queue_is_429_and_the_others_are_answered(served: Served, streaming: bool) -> None:
    body = {**LONG, "max_new_tokens": 150, "streaming": streaming}
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: served.predict(body, timeout=60), range(12)))
    refused = [answer for answer in answers if answer.status_code == 429]
    whole = {answer.text for answer in answers if answer.status_code == 200}
    assert refused and len(whole) == 1
    assert len(refused) + sum(answer.status_code == 200 for answer in answers) == 12
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert all("requests are waiting already" in answer.json()["error"] for answer in refused)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_leaves_cancels_its_request(served: Served, streaming: bool) -> None:
    idle(served)
    name = 'request_success_total{finished_reason="cancelled"}'
    before = metric(served, name)

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=served.client.base_url) as client:
            body = {**LONG, "streaming": streaming, "n": 1 if streaming else 2}
            task = asyncio.create_task(client.post(PREDICT, json=body, timeout=60))
            while not await asyncio.to_thread(metric, served, "num_requests_running"):
                assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    served.until(lambda: metric(served, name) - before == (1 if streaming else 2))
    idle(served)


def test_it_tells_how_long_each_phase_of_its_start_took(served: Served) -> None:
    served.predict(SHORT)
    text = served.client.get("/metrics").text
    found = re.findall(r'^trtpack_startup_seconds\{phase="(\w+)"\} (\S+)$', text, re.MULTILINE)
    seconds = {name: float(value) for name, value in found}
    inside = {"check", "weights", "cache"}
    assert {"port", "model", "load", "first_token", *inside} <= seconds.keys()
    assert all(value > 0 for value in seconds.values())
    assert sum(seconds[name] for name in inside) < seconds["load"]
    if "ready" in seconds:  # not where there is no /proc
        assert sum(seconds[name] for name in ("imports", "port", "model", "load")) < seconds["ready"] + 0.01
    told = served.until(lambda: re.search(r"Ready: (.*? s)\"", served.log))[1]
    assert told == ", ".join(f"{name} {seconds[name]:.2f} s" for name in seconds if name != "first_token")
