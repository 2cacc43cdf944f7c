"""One log line, one count and one request id for each request."""

import logging
import re
from time import perf_counter
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.server import logs, metrics
from runtime.server.errors import UnfinishedError

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
PROBES = {"/", "/metrics", "/v1/models/{name}", "/v1/models/{name}/loaded"}
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
logger = logging.getLogger(__name__)


class Access:
    """The outermost layer: what it logs and counts is what the client saw, 499 if it left before the end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status, identity = perf_counter(), 500, _identity(scope)
        token = logs.request_id.set(identity)

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(raw=message["headers"])["x-request-id"] = identity
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except UnfinishedError as exc:
            status = exc.status
            if status != 499:
                raise
        finally:
            _record(scope, status, perf_counter() - started)
            logs.request_id.reset(token)


def _identity(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid4().hex


def _record(scope: Scope, status: int, seconds: float) -> None:
    # Names that a client makes up must not become label values.
    method = scope["method"] if scope["method"] in METHODS else "OTHER"
    route = getattr(scope.get("route"), "path", "none")
    metrics.REQUESTS.labels(method, route, status).inc()
    metrics.DURATION.labels(method, route).observe(seconds)
    if route in PROBES and status in (200, 503):
        return
    request = f"{scope['method']} {scope['raw_path'].decode('ascii')} HTTP/{scope['http_version']}"
    fields = {"status": status, "duration_ms": round(seconds * 1000, 1)}
    logger.info("Handled request: %s %d in %.1f ms", request, status, seconds * 1000, extra=fields)
