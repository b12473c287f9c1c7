"""Between the event loop, which talks to clients, and the threads in which answers are made.

A job hands its pieces to the loop as they come, and is asked to end when its client has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from concurrent.futures import Executor
from typing import Any, Protocol

from video_llama.apps.serve_replies import Finished


class Stoppable(Protocol):
    """What generates, e.g. a chat."""

    def stop(self) -> None:
        """End the answer being generated, or waited for; may be called from any thread."""


class Wish:
    """Whether an answer is still wished for; asked in its thread, told from the loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stoppable: Stoppable | None = None
        self._over = False

    @property
    def is_over(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self._over

    def end(self) -> None:
        """Say that nobody wants the answer any more."""
        with self._lock:
            self._over = True
            if self._stoppable is not None:
                self._stoppable.stop()

    def concerns(self, stoppable: Stoppable | None) -> None:
        """Say what is to be stopped, at once if it is too late; None once nothing is any more."""
        with self._lock:
            self._stoppable = stoppable
            if self._over and stoppable is not None:
                stoppable.stop()


Say = Callable[[str], None]


class Work(Protocol):
    """Makes an answer."""

    def __call__(self, *, say: Say, wish: Wish) -> Finished | None:
        """Tell the pieces of an answer; None if it was not wished for any more."""


class Job:
    """An answer being made in a thread. Made and used by the event loop.

    Args:
        work: makes it.
        pool: where.
    """

    def __init__(self, work: Work, *, pool: Executor) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._wish = Wish()
        call = functools.partial(work, say=self._say, wish=self._wish)
        self._future = self._loop.run_in_executor(pool, call)
        # Scheduled after the last piece, which came from the same thread.
        self._future.add_done_callback(lambda _: self._queue.put_nowait(None))

    def when_done(self, call: Callable[[], None]) -> None:
        """Call something once its thread has nothing more to do, whatever came of it."""
        self._future.add_done_callback(lambda _: call())

    def end(self) -> None:
        """Ask the thread to end; what it says from now on is of no interest."""
        if not self._future.done():
            # Elsewhere: who lays out a long prompt at this moment would make the loop wait.
            with contextlib.suppress(RuntimeError):  # the loop itself is ending
                self._loop.run_in_executor(None, self._wish.end)

    async def pieces(self) -> AsyncIterator[str]:
        """Give the pieces of the answer as they come."""
        while (piece := await self._queue.get()) is not None:
            yield piece

    async def finished(self) -> Finished | None:
        """Return how it ended, None if it was asked to end.

        Raises:
            ApiError: the client made a mistake.
        """
        return await asyncio.shield(self._future)

    def _say(self, piece: str) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)


async def gone(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
    """Return when a client has hung up, or has got its whole answer."""
    while (await receive())["type"] != "http.disconnect":
        continue
