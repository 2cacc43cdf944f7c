"""The user's Model behind one call: preprocess, predict, postprocess, whichever way each is written."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal, Self

from starlette.requests import Request
from starlette.responses import StreamingResponse

from runtime.errors import QueueFullError
from runtime.server.errors import user_code
from runtime.server.package import PackageError
from runtime.server.threads import Threads

Role = Literal["inputs", "request"]
# As many as wait in an engine by default (engine.manifest.Scheduling): more would only time out at their clients, and
# each holds its body in memory.
MAX_WAITING = 1024


@dataclass(frozen=True)
class Method:
    """A method of the user's model, and what each of its parameters receives."""

    function: Callable[..., object]
    roles: tuple[Role, ...]

    @classmethod
    def find(cls, model: object, name: str) -> Self | None:
        """None if the model has no such method; PackageError if its parameters cannot be served."""
        function = getattr(model, name, None)
        if not callable(function):
            return None
        roles = tuple(_roles(function))
        if len(roles) != len(set(roles)):
            raise PackageError(
                f"Model.{name} may take the inputs and one parameter annotated fastapi.Request, "
                f"but is {name}{inspect.signature(function)}"
            )
        return cls(function, roles)

    async def call(self, threads: Threads, inputs: object, request: Request) -> object:
        """The method's result, awaited where it can be; a synchronous method runs in one of `threads`."""
        given = {"inputs": inputs, "request": request}
        arguments = [given[role] for role in self.roles]
        with user_code():
            if _is_quick(self.function):
                result = self.function(*arguments)
            else:
                result = await threads.run(self.function, *arguments)
            return await result if inspect.isawaitable(result) else result


class Model:
    """A loaded model, which runs at most `concurrency` predictions at once; a stream counts until its end.

    `max_waiting` more may wait for their turn, or be in preprocess or postprocess. `silence`: the seconds after which a
    stream that gives no further chunk is given up.
    """

    def __init__(self, model: object, concurrency: int, silence: float = 60, *, max_waiting: int = MAX_WAITING) -> None:
        predict = Method.find(model, "predict")
        if predict is None:
            raise PackageError("the Model class has no predict method")
        self._preprocess = Method.find(model, "preprocess")
        self._predict = predict
        self._postprocess = Method.find(model, "postprocess")
        self._health = Method.find(model, "is_healthy")
        self.silence = silence
        self._slots = asyncio.Semaphore(concurrency)
        self._most, self._taken = concurrency + max_waiting, 0
        # One for each prediction, and as many again so that preprocess and postprocess need not wait for predictions.
        self._threads = Threads(2 * concurrency, "model")
        self._health_threads = Threads(1, "health")

    @property
    def takes_inputs(self) -> bool:
        """Whether any step reads the parsed body: otherwise it may be anything."""
        return "inputs" in (self._preprocess or self._predict).roles

    @asynccontextmanager
    async def prediction(self, inputs: object, request: Request) -> AsyncIterator[object]:
        """The result for one request; a stream is to be read while the context is open.

        Raises QueueFullError for one too many, ModelError for a failure of the user's code, and what that raised on
        purpose as it is.
        """
        with self._place():
            if self._preprocess:
                inputs = await self._preprocess.call(self._threads, inputs, request)
            async with self._slots:
                result = await self._predict.call(self._threads, inputs, request)
                if is_stream(result) or isinstance(result, StreamingResponse):
                    yield await self._finish(result, request)
                    return
            yield await self._finish(result, request)

    async def is_healthy(self, request: Request) -> bool:
        """What the model's own is_healthy says; raises ModelError if it fails."""
        return self._health is None or bool(await self._health.call(self._health_threads, None, request))

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._taken >= self._most:
            raise QueueFullError(f"{self._taken} predictions run or wait already; try again later")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def _finish(self, result: object, request: Request) -> object:
        return await self._postprocess.call(self._threads, result, request) if self._postprocess else result


def is_stream(result: object) -> bool:
    """Generators, and other iterators such as transformers' TextIteratorStreamer."""
    return isinstance(result, Iterator | AsyncIterator)


def _is_quick(function: Callable[..., object]) -> bool:
    """Whether calling the function only makes a coroutine or a generator, and runs none of its body."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(is_kind(function) for is_kind in kinds)


def _roles(function: Callable[..., object]) -> Iterator[Role]:
    """A role for each positional parameter; one with a default beyond the inputs keeps it."""
    inputs_given = False
    for parameter in _signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            continue
        if _is_request(parameter.annotation):
            yield "request"
        elif not inputs_given or parameter.default is parameter.empty:
            inputs_given = True
            yield "inputs"
        else:
            return


def _signature(function: Callable[..., object]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # an annotation imported for type checkers only
        return inspect.signature(function)


def _is_request(annotation: object) -> bool:
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2] == "Request"
    return isinstance(annotation, type) and issubclass(annotation, Request)
