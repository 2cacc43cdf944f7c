"""The routes, and what the server knows while it answers them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from runtime.errors import EngineError, InputError, QueueFullError
from runtime.server import errors
from runtime.server.access import Access
from runtime.server.model import Model
from runtime.server.predict import Prediction

NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
BODY = {"required": True, "content": {"application/json": {"schema": {}}}}


@dataclass
class State:
    """`model` is there once it is loaded; `draining` from the first signal to stop."""

    model: Model | None = None
    draining: bool = False

    def loaded(self) -> Model:
        """The model; raises HTTPException 503 while there is none."""
        if self.model is None:
            raise HTTPException(503, "The model is not loaded yet.")
        return self.model


class DirectRoute(APIRoute):
    """A route that OpenAPI describes, but whose endpoint is called as it is, without solving dependencies."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        return self.endpoint


def create_app(state: State) -> ASGIApp:
    """The ASGI application; it answers from `state`, which the process that serves it keeps up to date."""
    app = FastAPI(title="trtpack", docs_url=None, redoc_url=None)
    app.router.route_class = DirectRoute
    for kind in (HTTPException, InputError, QueueFullError, EngineError, errors.ModelError, Exception):
        app.add_exception_handler(kind, errors.answer)

    @app.get("/", summary="Live: the process answers.", response_model=None)
    async def live(_request: Request) -> Response:
        return JSONResponse(True)

    @app.get("/metrics", summary="Prometheus metrics.", response_model=None)
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(REGISTRY), media_type=content_type)

    @app.post(
        "/v1/models/{name}:predict",
        summary="One prediction; a model that yields is streamed, or gathered if only JSON is accepted.",
        openapi_extra={"parameters": [NAME], "requestBody": BODY},
        response_model=None,
    )
    async def predict(_request: Request) -> ASGIApp:
        return Prediction(state.loaded())

    @app.get("/v1/models/{name}/loaded", openapi_extra={"parameters": [NAME]}, response_model=None)
    async def loaded(request: Request) -> Response:
        state.loaded()
        return _ready(request)

    @app.get(
        "/v1/models/{name}",
        summary="Ready: loaded, healthy and not about to stop.",
        openapi_extra={"parameters": [NAME]},
        response_model=None,
    )
    async def ready(request: Request) -> Response:
        if request.path_params["name"].endswith(":predict"):
            raise HTTPException(405, headers={"Allow": "POST"})
        model = state.loaded()
        if state.draining:
            raise HTTPException(503, "The server is stopping.")
        if not await _healthy(model, request):
            raise HTTPException(503, "Health check failed.")
        return _ready(request)

    return Access(app)


def _ready(request: Request) -> Response:
    return JSONResponse({"name": request.path_params["name"], "ready": True})


async def _healthy(model: Model, request: Request) -> bool:
    try:
        healthy = await model.is_healthy(request)
    except errors.ModelError as exc:
        errors.log(exc)
        healthy = False
    if not healthy:
        errors.logger.warning("Health check failed.")
    return healthy
