"""How many requests are inside the server at once, and how many bytes they bring.

Used by the event loop alone, so it needs no lock. The order in which the model answers is the
business of the chats' own turnstile.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from video_llama.apps.serve_errors import ApiError, shutting_down

_REMEMBERED = 16
_FIRST_GUESS_S = 2.0


class Line:
    """The bounded line of requests.

    Args:
        max_waiting: requests that may wait beside the one being answered.
        max_bytes: of all bodies inside together.
    """

    def __init__(self, *, max_waiting: int, max_bytes: int) -> None:
        self._max_inside = 1 + max_waiting
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self.num_inside = 0
        self.closed = False

    @property
    def num_waiting(self) -> int:
        """Requests inside beside the one being answered."""
        return max(0, self.num_inside - 1)

    def enter(self, num_bytes: int) -> Callable[[], None]:
        """Take a place.

        Args:
            num_bytes: of the body, as announced.

        Returns:
            What gives the place back, to be called once.

        Raises:
            ApiError: the line is full (429), or the server is about to end (503).
        """
        if self.closed:
            raise shutting_down()
        full = self.num_inside >= self._max_inside
        if full or (self.num_inside and self._num_bytes + num_bytes > self._max_bytes):
            raise ApiError(
                f"{self.num_inside} requests are inside already; ask again later",
                status=429,
                code="queue_full",
                kind="rate_limit_error",
                retry_after_s=self.retry_after_s(),
            )
        self.num_inside += 1
        self._num_bytes += num_bytes
        since = time.monotonic()

        def leave() -> None:
            self.num_inside -= 1
            self._num_bytes -= num_bytes
            self._seconds.append(time.monotonic() - since)

        return leave

    def retry_after_s(self) -> int:
        """Guess when a place will be free: the mean pace of the last requests."""
        if not self._seconds:
            return math.ceil(_FIRST_GUESS_S)
        inside_s = sum(self._seconds) / len(self._seconds)
        return max(1, min(600, math.ceil(inside_s / max(1, self.num_inside))))
