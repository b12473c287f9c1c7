"""The text of ids that come one by one, at the same cost for each however long the text is.

What ids mean depends on a few neighbours only: the bytes of a character, a space that opens a text.
So the last ids are decoded again with every new one, and what lies before is settled.
"""

from __future__ import annotations

from collections.abc import Sequence

from video_llama.conversation.tokenizer import Tokenizer

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are not a whole character yet."""

CONTEXT = 8
"""Ids decoded again in front of new ones; a character has at most four bytes."""

MOST_OPEN = 32
"""Ids that may be open before the first of them are settled."""


class GrowingText:
    """Ids and their text; always what the tokenizer says of all ids together.

    Args:
        tokenizer: of the decoder.

    Attributes:
        ids: all of them.
        text: of all of them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.ids: list[int] = []
        self.text = ""
        self._tokenizer = tokenizer
        # `text` is `_settled` and what the ids from `_start` on say behind `_known`.
        self._settled = ""
        self._known = ""
        self._start = 0

    def push(self, token_id: int) -> str:
        """Take the next id; return the text of all."""
        self.ids.append(token_id)
        decoded = self._tokenizer.decode(self.ids[self._start :])
        if not decoded.startswith(self._known):
            # A decoder that changes what it said before is asked about everything.
            self._settled, self._known, self._start = "", "", 0
            decoded = self._tokenizer.decode(self.ids)
        self.text = self._settled + decoded[len(self._known) :]
        if len(self.ids) - self._start >= MOST_OPEN:
            self._settle(decoded)
        return self.text

    def _settle(self, decoded: str) -> None:
        """Keep only the last ids open, where they say by themselves what they say in the text."""
        last = self._tokenizer.decode(self.ids[-CONTEXT:])
        if last and decoded.endswith(last) and not last.endswith(UNFINISHED):
            self._settled, self._known = self.text, last
            self._start = len(self.ids) - CONTEXT


def last_text(ids: Sequence[int], *, tokenizer: Tokenizer, num_chars: int) -> str:
    """Return the end of a text: what its last id says, and enough in front of that.

    Args:
        ids: of the whole text.
        tokenizer: of the decoder.
        num_chars: characters wanted in front of what the last id says.

    Returns:
        At least so many if the text has them; the text's last characters, but for a few at the
        beginning where the cut may have gone through a character.
    """
    num_ids = CONTEXT + 2 * num_chars
    # Ids may say nothing, so that more of them are needed.
    while num_ids < len(ids) and len(tokenizer.decode(ids[-num_ids:-1])) < num_chars + CONTEXT:
        num_ids *= 2
    return tokenizer.decode(ids[-num_ids:])
