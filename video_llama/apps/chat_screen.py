"""What a chat in the terminal shows: answers piece by piece, notes, and a sign of life meanwhile.

On a terminal notes are dim and waiting is shown; a pipe or a file gets plain text, flushed. What a
model says can not move the cursor or ring the bell.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from video_llama.common.types import MediaItem
    from video_llama.conversation.chat import Upload

MOST_SECONDS = 16
"""Written out one by one."""

KEPT = "\n\t"
"""Control characters that are shown as they are."""


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at it."""
        return self._console.is_terminal

    def note(self, text: str) -> None:
        """Show something that is no answer."""
        self._console.print(f"[{harmless(text)}]", style="dim" if self.is_terminal else None)
        sys.stdout.flush()

    def line(self, text: str) -> None:
        """Show a line as it is."""
        print(harmless(text), flush=True)

    def piece(self, text: str) -> None:
        """Show a piece of an answer."""
        print(harmless(text), end="", flush=True)

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show on a terminal that something is being done, until the block ends."""
        return self._console.status(f"[dim]{text}") if self.is_terminal else nullcontext()

    @contextmanager
    def waiting(self, text: str) -> Iterator[Waiting]:
        """Show the same until `done` is called, or the block ends."""
        with self.busy(text) as shown:
            yield Waiting(shown)


class Waiting:
    """A sign of life that ends when something better is there.

    Args:
        shown: what `Screen.busy` gave.
    """

    def __init__(self, shown: object) -> None:
        self._stop = getattr(shown, "stop", lambda: None)

    def done(self) -> None:
        """Take it off the screen; again does nothing."""
        self._stop()
        self._stop = lambda: None


def harmless(text: str) -> str:
    """Return a text whose control characters are replaced, so that it only ever shows."""
    text = text.replace("\r", "")
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(letter) == "Cc" and letter not in KEPT
        else letter
        for letter in text
    )


def describe(path: str, upload: Upload) -> list[str]:
    """Say in a few lines what the model got of a file."""
    lines = [f"{path}: {what}" for what in map(what_is_seen, upload.items)]
    return [*lines, *(f"{path}: {note}" for note in upload.notes)]


def what_is_seen(item: MediaItem) -> str:
    """Say what the model sees or hears of an item, with its seconds."""
    count, times = len(item.times_s), _seconds(item.times_s)
    return {
        "image": "picture",
        "video": f"{count} frames at {times} s",
        "audio": f"{count} pieces of sound beginning at {times} s",
    }[item.kind]


def _seconds(times_s: Sequence[float]) -> str:
    """Write seconds out, the first and last ones of many."""
    written = [f"{round(t, 2):g}" for t in times_s]
    if len(written) > MOST_SECONDS:
        written[4:-2] = ["..."]
    return ", ".join(written)
