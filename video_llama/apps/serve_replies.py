"""Answers as the JSON objects that OpenAI's clients read.

`notes` is ours: what the person should know, e.g. that a clip's sound was left out.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Finished:
    """What is known when an answer has ended.

    Attributes:
        finish_reason: why it ended.
        prompt_tokens: decoder positions of the prompt, media included.
        cached_tokens: how many of them were read in an earlier request.
        completion_tokens: tokens of the answer.
        notes: what the person should know.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    notes: tuple[str, ...] = ()

    def usage(self) -> dict[str, Any]:
        """Return the `usage` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True)
class Reply:
    """The frame around one answer.

    Attributes:
        model: its name.
        include_usage: whether a stream ends with its usage.
        id: of the answer.
        created: seconds since 1970.
    """

    model: str
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, finished: Finished) -> dict[str, Any]:
        """Return a whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finished.finish_reason,
        }
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": finished.usage(),
            "notes": list(finished.notes),
        }

    def opening(self) -> bytes:
        """Return the first event of a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        """Return the event of a piece of text."""
        return self._chunk({"content": text})

    def closing(self, finished: Finished) -> bytes:
        """Return the last events of a stream."""
        last = self._chunk({}, finished=finished)
        if self.include_usage:
            usage = {"choices": [], "usage": finished.usage()}
            last += event({**self._head("chat.completion.chunk"), **usage})
        return last + b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, str], *, finished: Finished | None = None) -> bytes:
        """Return an event that adds `delta` to the answer, or ends it."""
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": None if finished is None else finished.finish_reason,
        }
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self.include_usage:
            chunk["usage"] = None
        if finished is not None:
            chunk["notes"] = list(finished.notes)
        return event(chunk)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def event(value: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
