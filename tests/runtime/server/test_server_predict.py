"""One request, one answer: results, errors, ids, logs and counts."""

import json
import socket

import pytest

MODEL = """
    import dataclasses, datetime
    from fastapi import HTTPException, Request, Response
    from runtime.errors import EngineError, InputError, QueueFullError

    @dataclasses.dataclass
    class Point:
        x: int

    class Array:
        def tolist(self): return [1, 2]

    def deep():
        raise ValueError("private detail")

    class Model:
        def preprocess(self, inputs):
            if isinstance(inputs, dict): inputs["steps"] = ["preprocess"]
            return inputs

        async def predict(self, inputs, request: Request):
            if not isinstance(inputs, dict): return inputs
            match inputs.get("do"):
                case "input error": raise InputError("max_new_tokens must be at least 1")
                case "queue full": raise QueueFullError("64 requests wait already", retry_after=7)
                case "engine": raise EngineError("the engine stopped")
                case "http": raise HTTPException(418, "teapot", {"x-a": "b"})
                case "fail": deep()
                case "exit": raise SystemExit(1)
                case "stop": next(iter(()))
                case "nan": return {"a": float("nan")}
                case "object": return {"a": lambda: 0}
                case "rich": return {"array": Array(), "point": Point(3), "day": datetime.date(2026, 1, 2)}
                case "bytes": return b"\\x00\\xff"
                case "response": return Response("made", 201, {"x-a": "b"}, "text/x-mine")
                case "header": return request.headers["x-mine"]
            inputs["steps"].append("predict")
            return inputs

        async def postprocess(self, outputs):
            if isinstance(outputs, dict) and "steps" in outputs: outputs["steps"].append("postprocess")
            return outputs
"""


@pytest.fixture(scope="module")
def served(start):
    return start(MODEL).connect().ready()


def test_three_steps_in_order(served):
    assert served.predict({}).json() == {"steps": ["preprocess", "predict", "postprocess"]}


def test_results(served):
    assert served.predict([1, "é", None]).json() == [1, "é", None]
    assert served.predict({"do": "rich"}).json() == {"array": [1, 2], "point": {"x": 3}, "day": "2026-01-02"}
    raw = served.predict({"do": "bytes"})
    assert (raw.content, raw.headers["content-type"]) == (b"\x00\xff", "application/octet-stream")
    own = served.predict({"do": "response"})
    assert (own.status_code, own.text, own.headers["x-a"]) == (201, "made", "b")
    assert own.headers["content-type"].startswith("text/x-mine")
    with_request = served.predict({"do": "header"}, headers={"x-mine": "seen"})
    assert with_request.json() == "seen"
    surrogate = served.client.post("/v1/models/model:predict", content=rb'["\ud800"]')
    assert surrogate.json() == ["\ud800"]


@pytest.mark.parametrize(
    ("do", "status", "error"),
    [
        ("input error", 400, "max_new_tokens must be at least 1"),
        ("queue full", 429, "64 requests wait already"),
        ("engine", 503, "the engine stopped"),
        ("http", 418, "teapot"),
        ("fail", 500, "Internal Server Error (in model)"),
        ("exit", 500, "Internal Server Error (in model)"),
        ("stop", 500, "Internal Server Error (in model)"),
        ("nan", 500, "The model's result cannot be written as JSON: Out of range float values"),
        ("object", 500, "The model's result cannot be written as JSON: it holds a function"),
    ],
)
def test_errors_of_the_model(served, do, status, error):
    answer = served.predict({"do": do})
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith(error)


def test_headers_of_errors(served):
    assert served.predict({"do": "queue full"}).headers["retry-after"] == "7"
    assert served.predict({"do": "http"}).headers["x-a"] == "b"


def test_failure_is_logged_with_the_users_frames_only(served):
    identity = served.predict({"do": "fail"}).headers["x-request-id"]
    records = [json.loads(line) for line in served.log.splitlines()]
    [record] = [record for record in records if record.get("request_id") == identity and "exc" in record]
    assert record["severity"] == "ERROR"
    assert record["exc"].rstrip().endswith("ValueError: private detail")
    assert "in deep" in record["exc"]
    assert "runtime/server" not in record["exc"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "The request body is empty"),
        (b'{"a":\n nope}', "The request body is not JSON: Expecting value at line 2 column 2."),
        (b'{"a": NaN}', "The request body is not JSON: NaN is not a JSON number."),
        (b'"\xff"', "The request body is not UTF-8: invalid start byte at byte 1."),
        (b"[" * 100_000, "The request body is nested too deeply."),
        (b"1" * 5000, "The request body is not JSON: Exceeds the limit"),
    ],
    ids=["empty", "syntax", "nan", "utf-8", "deep", "number"],
)
def test_wrong_bodies(served, body, error):
    answer = served.client.post("/v1/models/model:predict", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)


def test_body_over_the_limit_is_refused_before_it_is_sent(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as client:
        client.sendall(b"POST /v1/models/model:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 104857601\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_other_routes(served):
    for method, path, status in [
        ("GET", "/v1/models/model:predict", 405),
        ("DELETE", "/v1/models/model", 405),
        ("POST", "/metrics", 405),
        ("GET", "/nope", 404),
    ]:
        answer = served.client.request(method, path)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), path
    assert "/v1/models/{name}:predict" in served.client.get("/openapi.json").json()["paths"]


def test_request_id_and_access_log(served):
    answer = served.predict([1], headers={"x-request-id": "abc-123"})
    assert answer.headers["x-request-id"] == "abc-123"
    records = [json.loads(line) for line in served.log.splitlines()]
    [record] = [record for record in records if record.get("request_id") == "abc-123"]
    assert record["message"].startswith("Handled request: POST /v1/models/model:predict HTTP/1.1 200 in ")
    assert record["severity"] == "INFO" and record["duration_ms"] >= 0 and record["time"]
    generated = [served.predict([1], headers={"x-request-id": text}).headers["x-request-id"] for text in ("", "a b")]
    assert len(set(generated)) == 2 and all(len(identity) == 32 for identity in generated)


def test_metrics(served):
    served.predict([1])
    served.client.request("MADEUP", "/made/up")
    answer = served.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    route = 'route="/v1/models/{name}:predict"'
    counts = [line for line in answer.text.splitlines() if line.startswith("trtpack_http_requests_total{")]
    assert any(f'method="POST",{route},status="200"' in line for line in counts)
    assert any('method="OTHER",route="none",status="404"' in line for line in counts)
    assert "made/up" not in answer.text
    assert f'trtpack_http_request_duration_seconds_bucket{{le="300.0",method="POST",{route}}}' in answer.text
