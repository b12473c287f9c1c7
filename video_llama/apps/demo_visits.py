"""Who is on the demo page: a conversation for every browser session, and when it is forgotten.

A visit ends when its tab has been closed for a while, when nobody did anything for an hour, or
when the server ends. Then its tokens and the files it uploaded are gone. Knows no page; what is
done in a visit is in `demo_handlers`.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.apps.demo_view import Turn
from video_llama.common.generation import GenerationSettings
from video_llama.common.logger import get_logger

if TYPE_CHECKING:
    from video_llama.conversation.chat import Chat

IDLE_S = 3600.0
"""A visitor who does nothing for longer is forgotten."""

CLOSED_S = 60.0
"""A tab that was closed is forgotten after this; a connection that only broke comes back sooner."""

SWEEP_S = 5.0
"""How often it is looked who can be forgotten."""


@dataclass(frozen=True)
class ShownFile:
    """A file of a conversation.

    Attributes:
        path: where it lies.
        saw: HTML of what the model got of it.
        media: kind and hash of every item that came of it.
        notes: what the visitor should know about it.
    """

    path: Path
    saw: str
    media: tuple[tuple[str, str | None], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """A question that waits for its answer, or for another answer."""

    question: str
    settings: GenerationSettings
    again: bool = False


@dataclass
class Round:
    """A question and its answer.

    Attributes:
        files: uploaded before it.
        asked: the question and how it was to be answered.
        answer: so far.
        notes: e.g. that old turns were forgotten.
        is_done: nothing more will be said.
    """

    files: list[ShownFile]
    asked: Asked
    answer: str = ""
    notes: list[str] = field(default_factory=list)
    is_done: bool = False


class Visit:
    """One visitor's conversation as it stands on the page.

    Args:
        chat: theirs alone.

    Attributes:
        id: random; tells no person.
        rounds: questions with their answers, the last of which may be growing.
        waiting: files that belong to the next question.
        pending: asked, and not yet begun to be answered.
        held: uploaded files that nobody may delete yet.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.id = secrets.token_hex(8)
        self.rounds: list[Round] = []
        self.waiting: list[ShownFile] = []
        self.pending: Asked | None = None
        self.held: set[Path] = set()

    @property
    def is_busy(self) -> bool:
        """Whether an answer is awaited or being given."""
        return self.pending is not None or bool(self.rounds and not self.rounds[-1].is_done)

    @property
    def files(self) -> list[ShownFile]:
        """All files of the conversation, in order."""
        return [file for past in self.rounds for file in past.files] + self.waiting

    def turns(self) -> list[Turn]:
        """Lay the conversation out for the page."""
        return [turn for _, turn in self._numbered()]

    def round_of(self, index: int) -> int | None:
        """Return which round a message of `turns` belongs to."""
        numbers = [number for number, _ in self._numbered()]
        return numbers[index] if 0 <= index < len(numbers) else None

    def _numbered(self) -> list[tuple[int | None, Turn]]:
        turns: list[tuple[int | None, Turn]] = []
        for number, past in enumerate(self.rounds):
            turns += [(number, turn) for file in past.files for turn in _file_turns(file)]
            turns.append((number, {"role": "user", "content": past.asked.question}))
            if past.answer or past.is_done:
                content = past.answer or "*(no words)*"
                turns.append((number, {"role": "assistant", "content": content}))
            turns += [(number, _note(note)) for note in past.notes]
        turns += [(None, turn) for file in self.waiting for turn in _file_turns(file)]
        if self.pending is not None and not self.pending.again:
            turns.append((None, {"role": "user", "content": self.pending.question}))
        return turns


def _file_turns(file: ShownFile) -> list[Turn]:
    turns: list[Turn] = [{"role": "user", "content": {"path": str(file.path)}}]
    return turns + [_note(note) for note in file.notes]


def _note(text: str) -> Turn:
    """Return a message of the page itself, which no model said."""
    return {"role": "assistant", "content": text, "metadata": {"title": "Note"}}


@dataclass
class _Guest:
    """A visit and when it may be forgotten."""

    visit: Visit
    until: float


class Visits:
    """All visits by browser session; use it as a context, which forgets them all at its end.

    Args:
        chat: its model and settings serve everybody; every visit gets `chat.another()`.
        folder: where uploads lie; files elsewhere, such as examples, are never deleted.
        clock: seconds, for tests.
    """

    def __init__(
        self, chat: Chat, *, folder: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._chat = chat
        self._folder = folder.resolve()
        self._clock = clock
        self._guests: dict[str, _Guest] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep_now_and_then, daemon=True)

    def __enter__(self) -> Visits:
        self._sweeper.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._sweeper.join()
        for session in list(self._guests):
            self.forget(session)

    def __len__(self) -> int:
        return len(self._guests)

    def __contains__(self, session: object) -> bool:
        return session in self._guests

    def of(self, session: str) -> Visit:
        """Return the visit of a browser session; it is opened if there is none."""
        with self._lock:
            return self._opened(session)

    def _opened(self, session: str) -> Visit:
        guest = self._guests.get(session)
        if guest is None:
            guest = self._guests[session] = _Guest(Visit(self._chat.another()), 0.0)
        guest.until = self._clock() + IDLE_S
        return guest.visit

    def is_here(self, visit: Visit, session: str) -> bool:
        """Say whether a session still has this visit, and was not forgotten meanwhile."""
        guest = self._guests.get(session)
        return guest is not None and guest.visit is visit

    def has(self, path: Path) -> bool:
        """Say whether a file was uploaded; what else there is, is not ours to show or delete."""
        try:
            return path.resolve().is_relative_to(self._folder) and path.is_file()
        except (OSError, RuntimeError, ValueError):
            # Endless links, a name that is too long, a zero byte: it leads nowhere.
            return False

    def hold(self, session: str, path: Path) -> None:
        """Keep an uploaded file until the visit lets go of it."""
        with self._lock:
            if self.has(path):
                self._opened(session).held.add(path.resolve())

    def leave(self, session: str) -> None:
        """Note that a tab was closed: what it was being told ends, the rest goes soon."""
        with self._lock:
            guest = self._guests.get(session)
            if guest is None:
                return
            guest.until = min(guest.until, self._clock() + CLOSED_S)
        guest.visit.pending = None
        guest.visit.chat.stop()

    def forget(self, session: str) -> None:
        """Drop a visit with its tokens and its files."""
        with self._lock:
            guest = self._guests.pop(session, None)
            if guest is None:
                return
            kept = {path for other in self._guests.values() for path in other.visit.held}
            # Still under the lock: nobody may begin to hold what is being deleted.
            for path in guest.visit.held - kept:
                self._delete(path)
        guest.visit.pending = None
        guest.visit.chat.reset()

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            get_logger().warning("%s stays: it cannot be deleted (%s)", path, error.strerror)
        if path.parent != self._folder:
            # Gradio gives every upload a folder of its own; one that holds more stays.
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def sweep(self) -> None:
        """Forget whoever stayed away for too long."""
        now = self._clock()
        with self._lock:
            gone = [session for session, guest in self._guests.items() if guest.until <= now]
        for session in gone:
            self.forget(session)
        if gone:
            get_logger().info("demo_visits_forgotten=%d demo_visits=%d", len(gone), len(self))

    def _sweep_now_and_then(self) -> None:
        while not self._ended.wait(SWEEP_S):
            try:
                self.sweep()
            except (OSError, RuntimeError):
                # Whoever is still there is looked at again the next time.
                get_logger().exception("a visit of the demo could not be forgotten whole")
