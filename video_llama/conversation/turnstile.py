"""Who may use the model next: one at a time, in order of arrival.

A turn is lent out while its holder hands something on and may be kept waiting by a slow reader;
whoever stands next does not wait for that longer than the turnstile's patience. This module knows
no model and no conversation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

POLL_S = 0.2
"""How often who waits looks whether its turn has come without anybody saying so."""


@dataclass(eq=False)
class Turn:
    """A place in the line.

    Attributes:
        owner: whose it is.
        given_up: asked while it waits; true ends the wait.
        waited_s: seconds until it came, 0 before.
        granted: it may be used; false while it waits, and for good if its owner gave up.
        lent_at: since when its holder does not use it, None while it does.
    """

    owner: object
    given_up: Callable[[], bool]
    waited_s: float = 0.0
    granted: bool = False
    lent_at: float | None = None


class Turnstile:
    """Lets one through at a time.

    Args:
        patience_s: how long a turn may be lent before the next in line overtakes.
    """

    def __init__(self, *, patience_s: float = 2.0) -> None:
        if patience_s < 0:
            raise ValueError(f"patience_s is {patience_s}; it must not be negative.")
        self.patience_s = patience_s
        self._line: list[Turn] = []
        # Re-entrant, because an answer may be thrown away, and leave the line, at any moment.
        self._changed = threading.Condition(threading.RLock())

    @contextmanager
    def turn(
        self, owner: object, *, given_up: Callable[[], bool] = lambda: False
    ) -> Iterator[Turn]:
        """Wait for a turn and hold it.

        Args:
            owner: who is asked for in `position`.
            given_up: asked while waiting; true ends the wait with a turn that is not `granted`.
        """
        turn = Turn(owner, given_up)
        began = time.monotonic()
        with self._changed:
            self._line.append(turn)
        try:
            self._wait(turn)
            turn.waited_s = time.monotonic() - began
            yield turn
        finally:
            with self._changed:
                turn.granted = False
                if turn in self._line:
                    self._line.remove(turn)
                self._changed.notify_all()

    @contextmanager
    def lent(self, turn: Turn) -> Iterator[None]:
        """Lend a turn while its holder waits for others.

        Afterwards it is held again, unless it was given up meanwhile.
        """
        turn.lent_at = time.monotonic()
        # No `finally`: a holder that is thrown away here will not go on, and waits for nothing.
        yield
        with self._changed:
            turn.lent_at = None
            if turn not in self._line:
                # Overtaken: next after the one that is served now.
                self._line.insert(1, turn)
        self._wait(turn)

    def position(self, owner: object) -> int | None:
        """Return how many are in front of an owner; 0 is being served, None does not wait."""
        with self._changed:
            owners = [turn.owner for turn in self._line]
            return owners.index(owner) if owner in owners else None

    def wake(self) -> None:
        """Let those who wait look at once whether they gave up."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, turn: Turn) -> None:
        """Return when it is a turn's time, or it was given up."""
        with self._changed:
            while not turn.given_up():
                if self._comes(turn):
                    turn.granted = True
                    return
                self._changed.wait(POLL_S)

    def _comes(self, turn: Turn) -> bool:
        """Say whether it is a turn's time; the next in line overtakes one that is lent too long."""
        ahead = self._line[: self._line.index(turn)]
        if len(ahead) == 1:
            holder, lent_at = ahead[0], ahead[0].lent_at
            if lent_at is not None and time.monotonic() - lent_at >= self.patience_s:
                holder.granted = False
                self._line = [other for other in self._line if other is not holder]
                return True
        return not ahead
