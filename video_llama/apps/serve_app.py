"""The routes of an OpenAI-compatible server.

Importing this module needs the extra `demo`; the verb `serve` says so if it is missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from video_llama.apps.serve_errors import ApiError, internal_error
from video_llama.apps.serve_http import REQUEST_ID, Porter, error_response
from video_llama.apps.serve_service import Service, unknown_model

HUNG_UP = 499
"""Status in the log of a request whose client has gone; nobody receives it."""


def build_app(
    service: Service, *, api_key: str | None = None, origins: Sequence[str] = ()
) -> ASGIApp:
    """Return the application that a server such as uvicorn runs.

    Args:
        service: answers.
        api_key: asked of every client but those of `/health`; None asks for nothing.
        origins: web pages whose browsers may ask; "*" for all.
    """
    # Pages of documentation would load scripts from the net.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    created = int(time.time())
    card = {
        "id": service.model_name,
        "object": "model",
        "created": created,
        "owned_by": "video-llama",
    }

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        return await service.complete(request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    # A name may hold slashes, as those of the hub do.
    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != service.model_name:
            raise unknown_model(name)
        return card

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> JSONResponse:
        status = service.status()
        return JSONResponse(status, status_code=200 if status["ready"] else 503)

    _tell_errors(app)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            # OpenAI's client for pages adds many of its own.
            allow_headers=["*"],
            expose_headers=[REQUEST_ID],
        )
    return Porter(app, api_key=api_key, origins=origins)


def _tell_errors(app: FastAPI) -> None:
    """Let every error be told as OpenAI's clients read it."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(error)

    @app.exception_handler(ClientDisconnect)
    async def hung_up(_: Request, __: Exception) -> Response:
        return Response(status_code=HUNG_UP)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        routes = "POST /v1/chat/completions, GET /v1/models, GET /health"
        text = f"{error.detail}: {request.method} {request.url.path[:80]}; there is {routes}"
        return error_response(ApiError(text, status=error.status_code, code="unknown_url"))

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return error_response(internal_error())
