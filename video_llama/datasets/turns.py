"""Questions and answers: how turns of an instruction data set become messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from video_llama.common.errors import MediaError
from video_llama.common.types import MediaItem, Message
from video_llama.datasets.base import require_text


def dialogue(
    turns: Sequence[Mapping[str, Any]], *, media: Sequence[MediaItem], where: str
) -> list[Message]:
    """Return user and assistant messages, the media in front of the first question.

    Args:
        turns: mappings with the texts `q` and `a`.
        media: what the questions are about.
        where: file and row, for messages.

    Raises:
        MediaError: there is no turn, or a question or an answer is empty.
    """
    if not turns:
        raise MediaError("there is no question", path=where)
    messages: list[Message] = []
    for turn in turns:
        question = require_text(turn["q"], what="a question", where=where)
        answer = require_text(turn["a"], what="an answer", where=where)
        opening = media if not messages else ()
        messages.append(Message("user", [*opening, question]))
        messages.append(Message("assistant", [answer]))
    return messages
