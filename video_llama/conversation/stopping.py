"""Where an answer ends: stop strings are looked for in decoded text, so any vocabulary will do.

The published code compares the last ids of the first row with three fixed numbers, which fits one
vocabulary and one row. Here every row is decoded on its own. A stop string that is one token of the
vocabulary, which decoding may hide, ends an answer by its id. This module generates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from video_llama.conversation.growing_text import UNFINISHED, GrowingText, last_text
from video_llama.conversation.tokenizer import Tokenizer


def cut_at_stop(text: str, *, stop: Sequence[str]) -> str | None:
    """Return the text in front of the first stop string, None if there is none."""
    starts = [start for mark in stop if (start := text.find(mark)) >= 0]
    return text[: min(starts)] if starts else None


def num_held(text: str, *, stop: Sequence[str]) -> int:
    """Count the last characters that may be the beginning of a stop string."""
    longest = max(map(len, stop), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in stop):
            return length
    return 0


def answer_text(ids: Sequence[int], *, tokenizer: Tokenizer, stop: Sequence[str]) -> str:
    """Turn the generated ids of a row into the answer a person reads.

    Args:
        ids: new ids, stop marks and end token included or not.
        tokenizer: of the decoder.
        stop: the template's stop strings.

    Returns:
        The text before the first end token or stop string, without white space around it and
        without half a character at its end.
    """
    ends = tokenizer.end_ids(stop)
    text = tokenizer.decode(list(takewhile(lambda token_id: token_id not in ends, ids)))
    cut = cut_at_stop(text, stop=stop)
    return (text if cut is None else cut).rstrip(UNFINISHED).strip()


@dataclass(frozen=True)
class StopRule:
    """Tells for each row on its own whether it is finished; a model's `stop` argument.

    It is asked after every id, so it looks for marks that the newest one completes.

    Attributes:
        tokenizer: of the decoder.
        stop: the template's stop strings.
    """

    tokenizer: Tokenizer
    stop: Sequence[str]

    def __call__(self, row: int, ids: Sequence[int]) -> bool:
        """Look at the ids generated so far.

        Args:
            row: index in the batch; rows do not influence each other.
            ids: of this row, the newest last.
        """
        if ids and ids[-1] in self._ends:
            return True
        text = last_text(
            ids, tokenizer=self.tokenizer, num_chars=max(map(len, self.stop), default=0)
        )
        return cut_at_stop(text, stop=self.stop) is not None

    @cached_property
    def _ends(self) -> frozenset[int]:
        return self.tokenizer.end_ids(self.stop)


class AnswerStream:
    """Shows an answer as it is generated, and never any part of a stop string.

    Characters are held back while they may be the beginning of a stop string, the first bytes of
    a character, or white space at the end of the answer.

        stream = AnswerStream(tokenizer=tokenizer, stop=("###",))
        for token_id in ids:
            piece = stream.push(token_id)
            if stream.finished: break
        rest = stream.close()

    Args:
        tokenizer: of the decoder.
        stop: the template's stop strings.
    """

    def __init__(self, *, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ends = tokenizer.end_ids(stop)
        self._said = GrowingText(tokenizer)
        self._shown = ""
        self.finished = False

    def push(self, token_id: int) -> str:
        """Take the next id.

        Returns:
            Text that can be shown now, often "".
        """
        if self.finished:
            return ""
        if token_id in self._ends:
            self.finished = True
            return ""
        text = self._said.push(token_id)
        cut = cut_at_stop(text, stop=self._stop)
        if cut is not None:
            self.finished = True
            return self._show(cut)
        text = text.rstrip(UNFINISHED)
        return self._show(text[: len(text) - num_held(text, stop=self._stop)])

    def close(self) -> str:
        """End the answer and return what was held back but belongs to it."""
        self.finished = True
        return self._show(answer_text(self._said.ids, tokenizer=self._tokenizer, stop=self._stop))

    def _show(self, text: str) -> str:
        """Return what is new in the answer so far."""
        new = text.rstrip(UNFINISHED).strip()[len(self._shown) :]
        self._shown += new
        return new
