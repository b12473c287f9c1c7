"""What `video-llama chat --json` prints: files, answers and what they took, as one object.

Keys are only ever added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from video_llama.apps.chat_words import FileWords
from video_llama.apps.talk import named_failures
from video_llama.common.errors import VideoLlamaError

if TYPE_CHECKING:
    from video_llama.conversation.chat import Chat, Upload, Usage


def answer_all(
    chat: Chat, *, files: Sequence[FileWords], questions: Sequence[str]
) -> dict[str, Any]:
    """Show a model files, ask it questions one after the other, and report.

    Args:
        chat: a fresh conversation.
        files: shown before the first question.
        questions: of one conversation.

    Returns:
        Plain values. Where something goes wrong, `error` says what, and what came before stays.
    """
    told = _nothing_yet(settings=dataclasses.asdict(chat.settings))
    try:
        for words in files:
            with named_failures():
                upload = chat.upload(words.path, **words.options)
            told["files"].append({"path": words.path, **upload_values(upload)})
        for question in questions:
            with named_failures():
                answer = chat.ask(question)
            assert chat.last_usage is not None
            told["answers"].append(
                {
                    "question": question,
                    "answer": answer,
                    "notes": chat.take_notes(),
                    **usage_values(chat.last_usage),
                }
            )
    except VideoLlamaError as error:
        told["error"] = str(error)
    return told


def no_answers(error: VideoLlamaError) -> dict[str, Any]:
    """Return the same for a model that could not be loaded."""
    return {**_nothing_yet(settings={}), "error": str(error)}


def _nothing_yet(*, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what stands there before anything is asked."""
    return {"files": [], "answers": [], "settings": settings, "error": None}


def upload_values(upload: Upload) -> dict[str, Any]:
    """Say what the model got of a file, with the seconds of what it sees and hears."""
    return {
        "media": [{"kind": item.kind, "times_s": list(item.times_s)} for item in upload.items],
        "notes": list(upload.notes),
    }


def usage_values(usage: Usage) -> dict[str, Any]:
    """Say what an answer took."""
    return {
        "finish_reason": usage.finish_reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
        },
        "seconds": {
            "first_token": round(usage.first_token_s, 4),
            "total": round(usage.total_s, 4),
        },
    }
