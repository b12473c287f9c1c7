"""Reading a JSON object key by key, so that nothing a client wrote goes unread or is misread.

Every key is asked for by type; null is the same as absent, as OpenAI's clients send it. `finish`
refuses what is left over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from video_llama.apps.serve_errors import ApiError
from video_llama.common.registry import did_you_mean

_SHOWN_CHARS = 60


class Fields:
    """The keys of one JSON object.

    Args:
        value: what should be an object.
        where: the path to it, e.g. "messages[0]"; "" for the whole body.
    """

    def __init__(self, value: object, *, where: str = "") -> None:
        if not isinstance(value, dict):
            raise ApiError(
                f"{where or 'the body'} is {shown(value)}; expected an object", param=where or None
            )
        self._values = {key: item for key, item in value.items() if item is not None}
        self._asked: set[str] = set()
        self.where = where

    def path(self, key: str) -> str:
        """Return the full name of a key."""
        return f"{self.where}.{key}" if self.where else key

    def raw(self, key: str) -> Any:
        """Return a value of any type, None if it is absent."""
        self._asked.add(key)
        return self._values.get(key)

    def text(self, key: str, *, one_of: Iterable[str] | None = None) -> str | None:
        """Return a string, None if it is absent."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        check_text(value, where=self.path(key))
        choices = None if one_of is None else list(one_of)
        if choices is not None and value not in choices:
            raise self.wrong(key, "one of " + ", ".join(map(repr, choices)))
        return value

    def required_text(self, key: str) -> str:
        """Return a string that must be there and not empty."""
        value = self.text(key)
        if not value:
            raise ApiError(
                f"{self.path(key)} is missing or empty; expected a string", param=self.path(key)
            )
        return value

    def flag(self, key: str) -> bool | None:
        """Return true or false, None if it is absent."""
        value = self.raw(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def integer(self, key: str, *, least: int, most: int) -> int | None:
        """Return a whole number within bounds, None if it is absent."""
        value = self.raw(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, *, least: float, most: float = math.inf) -> float | None:
        """Return a finite number within bounds, None if it is absent."""
        value = self.raw(key)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most or abs(value) > 1e300:
            upper = "" if math.isinf(most) else f" to {most:g}"
            raise self.wrong(key, f"a number from {least:g}{upper}")
        return float(value)

    def refuse(self, key: str, *, unless: tuple[object, ...], why: str) -> None:
        """Refuse a setting that this server cannot honour; the values `unless` ask for nothing."""
        value = self.raw(key)
        if value is not None and not any(value == empty for empty in unless):
            raise ApiError(
                f"{self.path(key)} is not supported here: {why}",
                param=self.path(key),
                code="unsupported_parameter",
            )

    def finish(self) -> None:
        """Refuse keys that nobody asked for."""
        for key in self._values:
            if key not in self._asked:
                hint = did_you_mean(key, self._asked)
                raise ApiError(
                    f"unknown key {shown(key)} in {self.where or 'the body'}{hint}",
                    # A key may hold half a character, which no answer can.
                    param=self.path(key)[:200].encode(errors="replace").decode(),
                    code="unknown_parameter",
                )

    def wrong(self, key: str, expected: str) -> ApiError:
        """Return the error of a value that is not what it should be."""
        path = self.path(key)
        return ApiError(
            f"{path} is {shown(self._values.get(key))}; expected {expected}",
            param=path,
            code="invalid_value",
        )


def check_text(text: str, *, where: str) -> None:
    """Refuse halves of characters, which JSON can spell and nothing can encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError(
            f"{where} holds half a character (a lone surrogate) at place {error.start}; "
            "send whole ones",
            param=where,
            code="invalid_value",
        ) from error


def shown(value: object) -> str:
    """Show a value in an error message, cut to a readable length."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        value = value[:_SHOWN_CHARS]
    text = json.dumps(value) if not isinstance(value, int) or abs(value) < 1e18 else "a huge number"
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
