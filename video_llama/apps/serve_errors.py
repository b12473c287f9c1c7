"""Errors as an OpenAI-compatible API tells them; none of them names a folder of this machine."""

from __future__ import annotations

import re
from typing import Any

from video_llama.common.errors import ContextOverflow, MediaError, VideoLlamaError

_FOLDERS = re.compile(r"(?<![\w<:/.])/(?:[^\s/'\",;:]+/)+(?=[^\s/])")


class ApiError(Exception):
    """What a client did wrong, or must wait for.

    Args:
        message: what was found, what was expected, and the way out.
        status: of HTTP.
        param: the field it is about, e.g. "messages[0].content".
        code: a word for programs, e.g. "model_not_found".
        kind: OpenAI's `type`.
        retry_after_s: when it is worth trying again, None if it is not.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.kind = kind
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """Return the JSON object that OpenAI's clients read."""
        fields = {"type": self.kind, "param": self.param, "code": self.code}
        return {"error": {"message": self.message, **fields}}

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to it."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status == 500:
            # Uvicorn hangs up after a fault of ours; a client must not send its next request there.
            headers["Connection"] = "close"
        return headers


def told(error: VideoLlamaError, *, param: str | None = None) -> ApiError:
    """Turn an error of the package into one for a client.

    Args:
        error: its text may name files of this machine.
        param: the field it is about; it stands for the file.
    """
    if isinstance(error, MediaError):
        return ApiError(without_folders(error.reason), param=param, code="invalid_media")
    if isinstance(error, ContextOverflow):
        text = without_folders(str(error))
        return ApiError(text, param="messages", code="context_length_exceeded")
    return ApiError(without_folders(in_their_words(str(error))), param=param)


def without_folders(text: str) -> str:
    """Leave only the last names of the absolute paths in a text."""
    return _FOLDERS.sub("", text)


def in_their_words(text: str) -> str:
    """Call settings what clients call them."""
    return text.replace("max_new_tokens", "max_tokens")


def shutting_down() -> ApiError:
    """Say that the server is about to end."""
    return ApiError(
        "the server is shutting down; ask again when it is back",
        status=503,
        code="shutting_down",
        kind="server_error",
        retry_after_s=30,
    )


def internal_error() -> ApiError:
    """Say that it is the server's fault; the log tells what happened."""
    return ApiError(
        "the server failed at this request; its log tells why, under the request's id",
        status=500,
        code="internal_error",
        kind="server_error",
    )
