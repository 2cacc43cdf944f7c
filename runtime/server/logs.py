"""Logs on stderr: JSON lines for machines, plain text on a terminal; and tracebacks that start at the user's code."""

import logging
import sys
import sysconfig
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_OURS = str(Path(__file__).parent)
_STDLIB = sysconfig.get_path("stdlib")


def configure() -> None:
    """Sends every logger's records, from INFO up, and Python's warnings to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_text() if sys.stderr.isatty() else _json())
    handler.addFilter(_tag)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # At INFO it writes down the address of each request, and where a registry sends us for a blob is a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def user_traceback(exc: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """`exc_info` without the leading frames of this server and of the standard library that called the user's code."""
    frame = exc.__traceback__
    while frame and _is_wrapper(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return type(exc), exc, frame


def _is_wrapper(file: str) -> bool:
    if "site-packages" in file:
        return False
    return file.startswith((_OURS, _STDLIB, "<frozen "))


def _tag(record: logging.LogRecord) -> bool:
    if identity := request_id.get():
        record.request_id = identity
    return True


def _text() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)s %(message)s")


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    names = {"levelname": "severity", "exc_info": "exc", "name": "logger"}
    return JsonFormatter("%(levelname)s %(message)s %(name)s", timestamp="time", rename_fields=names)
