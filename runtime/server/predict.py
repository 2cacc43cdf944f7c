"""POST /v1/models/{name}:predict: a body in, one JSON value or a stream of chunks out."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import aclosing

from pydantic_core import PydanticSerializationError, to_jsonable_python
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from runtime.server import errors
from runtime.server.errors import UnfinishedError, user_code
from runtime.server.model import Model, is_stream
from runtime.server.threads import iterate

MAX_BODY_BYTES = 100 * 2**20
TEXT, OCTETS = "text/plain; charset=utf-8", "application/octet-stream"


class Prediction:
    """One request's answer, as an ASGI application: the client's leaving cancels it, wherever it is."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._started = self._finished = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what `errors.answer` turns into a response, or UnfinishedError where it is too late for one."""

        async def watched(message: Message) -> None:
            self._started = True
            self._finished = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            request = Request(scope, _limited(scope, receive), watched)
            inputs = parse(await request.body()) if self._model.takes_inputs else await request.body()
            await self._while_connected(receive, self._answer(inputs, request, watched))
        except ClientDisconnect:
            raise UnfinishedError(499) from None
        except Exception as exc:
            if not self._started:
                raise
            errors.log(exc)
            raise UnfinishedError(500) from None

    async def _while_connected(self, receive: Receive, work: Coroutine[None, None, None]) -> None:
        task, gone = asyncio.create_task(work), asyncio.create_task(_disconnection(receive))
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            # The end of a response looks like a disconnection too.
            if not task.done() and not self._finished:
                task.cancel()
                await asyncio.wait((task,))
                if not task.cancelled() and (error := task.exception()):
                    errors.log(error)
            else:
                await task
            # A response of the user's own watches the client as well, and may have returned early.
            if not self._finished:
                raise ClientDisconnect
        finally:
            gone.cancel()
            task.cancel()

    async def _answer(self, inputs: object, request: Request, send: Send) -> None:
        async with self._model.prediction(inputs, request) as result:
            if isinstance(result, Response):
                await _pass_through(result, request, send)
            elif is_stream(result):
                await _stream(result, self._model.silence, request, send)
            elif isinstance(result, bytes):
                await Response(result, media_type=OCTETS)(request.scope, request.receive, send)
            else:
                await _json(result)(request.scope, request.receive, send)


def parse(body: bytes) -> object:
    """The value of a JSON body; raises HTTPException 400 that says where it is wrong."""
    if not body.strip():
        raise HTTPException(400, "The request body is empty; send JSON.")
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        raise HTTPException(400, f"The request body is not UTF-8: {exc.reason} at byte {exc.start}.") from exc
    except json.JSONDecodeError as exc:
        place = f"line {exc.lineno} column {exc.colno}"
        raise HTTPException(400, f"The request body is not JSON: {exc.msg} at {place}.") from exc
    except ValueError as exc:
        raise HTTPException(400, f"The request body is not JSON: {exc}.") from exc
    except RecursionError as exc:
        raise HTTPException(400, "The request body is nested too deeply.") from exc


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not a JSON number")


def _limited(scope: Scope, receive: Receive) -> Receive:
    """`receive`, which raises HTTPException 413 as soon as the body is known to be over MAX_BODY_BYTES."""
    announced, total = int(Headers(scope=scope).get("content-length", 0)), 0

    async def inner() -> Message:
        nonlocal total
        message = await receive() if announced <= MAX_BODY_BYTES else {}
        total += len(message.get("body", b""))
        if max(announced, total) > MAX_BODY_BYTES:
            raise HTTPException(413, f"The request body is over {MAX_BODY_BYTES // 2**20} MiB.")
        return message

    return inner


async def _disconnection(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(value: object) -> Response:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as exc:
        raise HTTPException(500, f"The model's result cannot be written as JSON: {exc}.") from exc
    # A lone surrogate has no UTF-8, but Python's escape for it is JSON's as well.
    return Response(text.encode("utf-8", "backslashreplace"), media_type="application/json")


def _plain(value: object) -> object:
    """numpy's and torch's values as Python's; and what pydantic knows: its models, dataclasses, dates, sets, paths."""
    if callable(to_list := getattr(value, "tolist", None)):
        return to_list()
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError as exc:
        raise TypeError(f"it holds a {type(value).__name__}") from exc


async def _pass_through(response: Response, request: Request, send: Send) -> None:
    try:
        with user_code():
            await response(request.scope, request.receive, send)
    finally:
        if isinstance(response, StreamingResponse) and (close := getattr(response.body_iterator, "aclose", None)):
            await close()


async def _stream(result: object, silence: float, request: Request, send: Send) -> None:
    """Chunks as they come; the response starts with the first one, so that a failure before it has its own status."""
    async with aclosing(_chunks(result, silence)) as chunks:
        if request.headers.get("accept") == "application/json":
            parts = [chunk if isinstance(chunk, str) else chunk.decode("utf-8", "replace") async for chunk in chunks]
            await _json("".join(parts))(request.scope, request.receive, send)
            return
        chunk = await anext(chunks, None)
        media_type = OCTETS if isinstance(chunk, bytes) else TEXT
        headers = [(b"content-type", media_type.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while chunk is not None:
            body = chunk if isinstance(chunk, bytes) else chunk.encode("utf-8", "replace")
            await send({"type": "http.response.body", "body": body, "more_body": True})
            chunk = await anext(chunks, None)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _chunks(result: object, silence: float) -> AsyncGenerator[str | bytes, None]:
    """The items of the model's stream, which is closed in the end, early or not.

    The first may take its time, in a queue perhaps; after it, `silence` seconds without a chunk are an error.
    """
    source = iterate(result) if isinstance(result, Iterator) else result
    if not isinstance(source, AsyncIterator):
        raise TypeError(f"{type(source).__name__} is not a stream")
    allowed: float | None = None
    try:
        while True:
            with user_code():
                try:
                    async with asyncio.timeout(allowed) as timer:
                        chunk = await anext(source)
                except StopAsyncIteration:
                    return
                except TimeoutError as exc:
                    if not timer.expired():
                        raise
                    raise HTTPException(504, f"The model's stream was silent for {allowed} s.") from exc
                if not isinstance(chunk, str | bytes):
                    raise TypeError(f"the model's stream gave a {type(chunk).__name__}; yield str or bytes")
            yield chunk
            allowed = silence
    finally:
        if close := getattr(source, "aclose", None):
            await close()
