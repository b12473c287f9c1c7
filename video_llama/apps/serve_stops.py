"""Stop strings that a client brings, besides those of the model's template."""

from __future__ import annotations

from collections.abc import Sequence

from video_llama.conversation.stopping import cut_at_stop, num_held


class StopStrings:
    """Ends an answer before the first of some strings, and never shows a part of it.

    Args:
        marks: the strings; none lets everything through.
    """

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = tuple(marks)
        self._text = ""
        self._num_shown = 0
        self.found = False

    def push(self, piece: str) -> str:
        """Take the next piece of an answer.

        Returns:
            What can be shown now, often "".
        """
        self._text += piece
        cut = cut_at_stop(self._text, stop=self._marks)
        if cut is not None:
            self.found, self._text = True, cut
            return self.close()
        return self._show(len(self._text) - num_held(self._text, stop=self._marks))

    def close(self) -> str:
        """Return what was held back but belongs to the answer."""
        return self._show(len(self._text))

    def _show(self, end: int) -> str:
        new = self._text[self._num_shown : end]
        self._num_shown = max(self._num_shown, end)
        return new
