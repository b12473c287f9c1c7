"""From a request's bytes to the response's: the line, the threads, the streams, the shutdown.

Everything here runs in the event loop; what takes long is handed to threads. Importing this module
needs the extra `demo`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from video_llama.apps.serve_errors import ApiError, internal_error, shutting_down
from video_llama.apps.serve_http import announced_bytes, read_body
from video_llama.apps.serve_jobs import Job, gone
from video_llama.apps.serve_line import Line
from video_llama.apps.serve_replies import Reply, event
from video_llama.apps.serve_request import ChatRequest, parse_request
from video_llama.apps.serve_talk import Talker

GIB = 2**30
MAX_VALUES = 1_000_000
"""Commas and brackets of a body, those in its texts included."""


@dataclass(frozen=True)
class ServiceLimits:
    """What clients may ask of a server.

    Attributes:
        max_waiting: requests that may wait beside the one being answered.
        max_body_bytes: of one request.
        max_held_bytes: of the bodies of all requests inside.
        body_timeout_s: until a body must be there.
    """

    max_waiting: int = 64
    max_body_bytes: int = 64 << 20
    max_held_bytes: int = 1 << 30
    body_timeout_s: float = 60.0


class Service:
    """Answers requests of one model.

    Args:
        talker: makes the answers.
        model_name: the name it is asked for by.
        limits: of clients.
    """

    def __init__(self, talker: Talker, *, model_name: str, limits: ServiceLimits) -> None:
        self.talker = talker
        self.model_name = model_name
        self.limits = limits
        self.line = Line(max_waiting=limits.max_waiting, max_bytes=limits.max_held_bytes)
        self._pool = ThreadPoolExecutor(1 + limits.max_waiting, thread_name_prefix="answer")
        self._jobs: set[Job] = set()

    async def complete(self, http: Request) -> Response:
        """Serve `/v1/chat/completions`.

        Raises:
            ApiError: the request cannot be honoured, or not now.
            ClientDisconnect: the client has gone.
        """
        most = self.limits.max_body_bytes
        leave = self.line.enter(announced_bytes(http, max_bytes=most))
        with contextlib.ExitStack() as place:
            place.callback(leave)
            body = await read_body(http, max_bytes=most, timeout_s=self.limits.body_timeout_s)
            loop = asyncio.get_running_loop()
            asked = await loop.run_in_executor(self._pool, self._parsed, body)
            del body
            job = Job(functools.partial(self.talker.answer, asked), pool=self._pool)
            # The place is free when the thread is, which is soon after its client has gone.
            job.when_done(place.pop_all().close)
        self._jobs.add(job)
        job.when_done(functools.partial(self._jobs.discard, job))
        return await self._respond(http, job, asked)

    def status(self) -> dict[str, Any]:
        """Return what `/health` tells."""
        shared = self.talker.chat.shared
        return {
            "status": "ending" if self.line.closed else "ok",
            "ready": not self.line.closed,
            "model": self.model_name,
            "queue": {
                "inside": self.line.num_inside,
                "waiting": self.line.num_waiting,
                "max_waiting": self.limits.max_waiting,
            },
            "kept": {
                "conversations": len(self.talker.kept),
                "key_values": len(shared.caches),
                "media": len(shared.tokens),
                "media_gib": round(shared.tokens.num_bytes / GIB, 3),
            },
            "memory_gib": memory_gib(),
        }

    def start_to_end(self) -> None:
        """Let nobody in any more; those inside are served."""
        self.line.closed = True

    def end_all(self) -> None:
        """End the answers that are still on their way."""
        for job in tuple(self._jobs):
            job.end()

    def close(self) -> None:
        """Give the threads back."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _parsed(self, body: bytes) -> ChatRequest:
        """Read and check a body; in a thread, since it may be long."""
        asked = parse_request(parse_json(body))
        if asked.model != self.model_name:
            raise unknown_model(asked.model)
        return asked

    async def _respond(self, http: Request, job: Job, asked: ChatRequest) -> Response:
        """Wait for the answer, or for its beginning if it is streamed."""
        watcher = asyncio.create_task(gone(http.receive))
        watcher.add_done_callback(lambda _: job.end())
        reply = Reply(asked.model, include_usage=asked.include_usage)
        pieces = job.pieces()
        with contextlib.ExitStack() as watched:
            watched.callback(watcher.cancel)
            first = await anext(pieces, None)
            if asked.stream and first is not None:
                began = reply.opening() + reply.piece(first)
                return event_stream(_events(began, reply, job, pieces, watched.pop_all()))
            text = (first or "") + "".join([piece async for piece in pieces])
            finished = await job.finished()
            if finished is None:
                raise shutting_down() if self.line.closed else ClientDisconnect
        if asked.stream:
            return event_stream([reply.opening(), reply.closing(finished)])
        return JSONResponse(reply.whole(text, finished))


async def _events(
    began: bytes,
    reply: Reply,
    job: Job,
    pieces: AsyncIterator[str],
    watched: contextlib.ExitStack,
) -> AsyncIterator[bytes]:
    """Yield the events of a stream; an error in its middle becomes its last event."""
    with watched:
        yield began
        async for piece in pieces:
            yield reply.piece(piece)
        try:
            finished = await job.finished()
        except ApiError as error:
            yield event(error.body())
            return
        except Exception:
            yield event(internal_error().body())
            raise
        yield event(shutting_down().body()) if finished is None else reply.closing(finished)


def event_stream(events: AsyncIterable[bytes] | Iterable[bytes]) -> Response:
    """Return server-sent events as they come."""
    # Proxies that hold back pieces to make bigger ones are asked not to.
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, headers=headers, media_type="text/event-stream")


def parse_json(body: bytes) -> object:
    """Parse a body.

    Raises:
        ApiError: it is no JSON, nested too deeply, or of so many values that parsing them would
            keep everybody waiting.
    """
    num_values = sum(map(body.count, (b",", b"[", b"{")))
    if num_values > MAX_VALUES:
        raise ApiError(
            f"the body holds about {num_values:,} values, at most {MAX_VALUES:,} are allowed",
            code="invalid_json",
        )
    try:
        return json.loads(body, parse_constant=_no_constant)
    except RecursionError as error:
        raise ApiError("the body is nested too deeply", code="invalid_json") from error
    except ValueError as error:
        raise ApiError(f"the body is no JSON: {error}", code="invalid_json") from error


def unknown_model(name: str) -> ApiError:
    """Say that there is no such model here."""
    return ApiError(
        f"the model {name[:80]!r} does not exist here; GET /v1/models lists what does",
        status=404,
        param="model",
        code="model_not_found",
    )


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def memory_gib() -> dict[str, float]:
    """Return the memory this process holds: `process`, and `gpu` where one is in use."""
    memory = {}
    pages = Path("/proc/self/statm")
    if pages.exists():
        resident = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        memory["process"] = round(resident / GIB, 3)
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        memory["gpu"] = round(torch.cuda.memory_allocated() / GIB, 3)
    return memory
