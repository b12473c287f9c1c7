"""From the first request to the last: uvicorn, told to end in good order.

When the process is told to end (SIGTERM, Ctrl-C), nobody is let in any more, answers on their way
are finished, and those that take too long are ended and say so to their clients. Importing this
module needs the extra `demo`.
"""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

from video_llama.apps.serve_service import Service

LAST_WORDS_S = 5.0
"""After the grace, for answers that were ended to reach their clients."""


class Server(uvicorn.Server):
    """Uvicorn's server, with time for answers to end.

    Args:
        app: what it serves.
        service: what is told to end.
        grace_s: for answers on their way.
    """

    def __init__(self, app: ASGIApp, *, service: Service, grace_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                # Ours is one line a request, with its id; uvicorn's would double it.
                access_log=False,
                log_config=None,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=int(grace_s + LAST_WORDS_S) + 1,
            )
        )
        self._service = service
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in good order."""
        self._service.start_to_end()
        asyncio.get_running_loop().call_later(self._grace_s, self._service.end_all)
        await super().shutdown(sockets)
        self._service.end_all()
        self._service.close()
