"""What the published chat does with a conversation that is too long, and what is done here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ChatCompat:
    """Quirks of the published chat, corrected by default; see `named` and `released`.

    Attributes:
        overflow: "drop_rounds" leaves out whole old rounds and keeps their media; "cut_left" cuts
            the beginning off wherever that is, bos, system text and media included.
        max_length: positions of prompt and answer together at most, None for the decoder's own.
    """

    overflow: Literal["drop_rounds", "cut_left"] = "drop_rounds"
    max_length: int | None = None

    @classmethod
    def released(cls) -> ChatCompat:
        """Return all that Video-LLaMA's demo does (conversation_video.py, answer), for comparing.

        It cuts without a word, so no run file means it; hand it to `Chat`.
        """
        return cls(overflow="cut_left", max_length=2000)

    @classmethod
    def named(cls, name: Literal["corrected", "released"]) -> ChatCompat:
        """Return what a run file's `model.compat` means for a chat: the length, not the cut.

        Which of its parts a prompt loses is nothing that weights were trained with, and who is
        answered should know.
        """
        return cls(max_length=2000) if name == "released" else cls()
