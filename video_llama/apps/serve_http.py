"""What stands around every request: its id, the key, the access log, the limits of its body.

Pure ASGI, so that nothing comes between an answer and the news that its client has gone. Importing
this module needs the extra `demo`.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import MutableMapping, Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from video_llama.apps.serve_errors import ApiError
from video_llama.common.logger import get_logger

REQUEST_ID = "x-request-id"
OPEN_PATHS = ("/health",)
"""What may be asked without a key."""


class Porter:
    """Gives every request an id, lets only those in who may come in, and writes the access log.

    Args:
        app: what serves those let in.
        api_key: what `Authorization: Bearer` must bring; None asks for nothing.
        origins: pages whose browsers may ask; requests of any other page are refused.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None, origins: Sequence[str]) -> None:
        self._app = app
        self._api_key = None if api_key is None else api_key.encode()
        self._origins = tuple(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began = f"req_{uuid.uuid4().hex}", time.monotonic()
        status = 0

        async def send_on(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, receive, send_on)
            else:
                await error_response(refusal)(scope, receive, send_on)
        except Exception as error:
            # Uvicorn logs what happened below this line, without the id.
            get_logger().error("%s failed: %r", request_id, error)
            raise
        finally:
            get_logger().info(
                "%s %s %s %r %s %.0f ms",
                request_id,
                (scope.get("client") or ("-",))[0],
                scope["method"],
                scope["path"][:200],
                status or "gone",
                1000 * (time.monotonic() - began),
            )

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Say why a request may not come in, None if it may."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and "*" not in self._origins:
            return ApiError(
                "requests of this web page are not allowed (--allow-origin)",
                status=403,
                code="origin_not_allowed",
            )
        is_open = scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS"
        if self._api_key is None or is_open:
            return None
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(key.encode("latin-1"), self._api_key):
            return None
        return ApiError(
            "no key, or a wrong one; send it as 'Authorization: Bearer KEY'",
            status=401,
            code="invalid_api_key",
        )


def error_response(error: ApiError) -> JSONResponse:
    """Return an error as a client of OpenAI reads it."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


def announced_bytes(request: Request, *, max_bytes: int) -> int:
    """Return how long a body says it is; the most that is allowed if it does not say.

    Raises:
        ApiError: it is no JSON (415), or too large (413).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page of another site can make a browser send anything else without being asked.
        raise ApiError(
            f"the content type is {kind[:80]!r}; expected 'application/json'", status=415
        )
    length = request.headers.get("content-length")
    if length is None:
        return max_bytes
    if not length.isdecimal():
        raise ApiError("the content length is no number")
    num_bytes = int(length[:20])
    if num_bytes > max_bytes:
        raise too_large(max_bytes)
    return num_bytes


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """Read a body, up to a limit of bytes and of seconds.

    Raises:
        ApiError: it is larger (413) or slower (408) than allowed.
        ClientDisconnect: the client has gone.
    """
    try:
        return await asyncio.wait_for(_read(request, max_bytes), timeout_s)
    except asyncio.TimeoutError as error:
        raise ApiError(
            f"the body was not there within {timeout_s:g} s", status=408, code="too_slow"
        ) from error


async def _read(request: Request, max_bytes: int) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > max_bytes:
            raise too_large(max_bytes)
        pieces.append(piece)
    return b"".join(pieces)


def too_large(max_bytes: int) -> ApiError:
    """Say that a body is too large."""
    return ApiError(
        f"the body is larger than the {max_bytes:,} bytes that are allowed; send smaller media",
        status=413,
        code="body_too_large",
    )
