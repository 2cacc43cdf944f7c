"""Which error becomes which answer."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.errors import DeadlineError, EngineError, InputError, QueueFullError
from runtime.server.logs import user_traceback

DELIBERATE = (HTTPException, InputError, QueueFullError, EngineError)
logger = logging.getLogger(__name__)


class ModelError(Exception):
    """The user's code failed; its exception is the `__cause__`. HTTP 500."""


class UnfinishedError(Exception):
    """A response that cannot be completed: `status` is what the log and the metrics call it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@contextmanager
def user_code() -> Iterator[None]:
    """Tells the failures of the user's code from ours, and keeps its sys.exit() from ending the server."""
    try:
        yield
    except DELIBERATE:
        raise
    except (Exception, SystemExit) as exc:
        raise ModelError from exc


def log(exc: BaseException) -> None:
    """One log record, with the traceback where the error was not raised on purpose."""
    if isinstance(exc, ModelError) and exc.__cause__:
        logger.error("Exception in model", exc_info=user_traceback(exc.__cause__))
    elif isinstance(exc, DELIBERATE):
        logger.warning("%s: %s", type(exc).__name__, exc)
    else:
        logger.error("Unhandled exception", exc_info=exc)


async def answer(_request: Request, exc: Exception) -> Response:
    """The response for `exc`, as {"error": text}."""
    match exc:
        case HTTPException(status_code=204 | 304):
            return Response(status_code=exc.status_code, headers=exc.headers)
        case HTTPException():
            return _json(exc.status_code, exc.detail, exc.headers)
        case InputError():
            return _json(400, str(exc))
        case QueueFullError():
            return _json(429, str(exc), {"retry-after": str(exc.retry_after)})
        case DeadlineError():
            return _json(504, str(exc))
        case EngineError():
            log(exc)
            return _json(503, str(exc))
        case ModelError():
            log(exc)
            return _json(500, "Internal Server Error (in model)")
    return _json(500, "Internal Server Error")


def _json(status: int, error: object, headers: object = None) -> JSONResponse:
    return JSONResponse({"error": error}, status, headers)  # type: ignore[arg-type]
