"""Text-only samples: facts written out where a clip's media would stand, and what is said then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class TextSample:
    """One training text of the decoder.

    Args:
        form: "caption" (facts, then a caption), "instruct" (a conversation about facts) or
            "recall" (a bare list of look-ups, each turn a key and its value).
        media: (kind, facts) in text order, kind "video" or "audio".
        turns: of the conversation; a caption is the answer of a single turn without a question.
    """

    form: Literal["caption", "instruct", "recall"]
    media: tuple[tuple[str, str], ...]
    turns: tuple[Turn, ...]
