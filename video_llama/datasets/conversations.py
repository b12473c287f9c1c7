"""Rows of conversations in the layouts people have, brought into one: turns of texts and files.

Understood are OpenAI's `messages` with `role` and `content`, where the content is a text or a list
of parts, and ShareGPT's `conversations` with `from` and `value`. Files stand in parts, or in lists
beside the messages, and then `<video>`, `<image>` and `<audio>` mark where the next one belongs.
Nothing is opened here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from video_llama.common.types import MEDIA_KINDS, MediaKind, Role

ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
PARTS: Mapping[str, MediaKind] = {
    **{kind: kind for kind in MEDIA_KINDS},
    **{f"{kind}_url": kind for kind in MEDIA_KINDS},
    "input_audio": "audio",
}
"""Types of parts that name a file."""

Part = str | dict[str, Any]
"""A text, or `{"kind": ..., "path": ...}`, with `start_s` and `end_s` if only a span is meant."""


class BadRow(Exception):
    """A conversation that cannot be read; never leaves a reader."""


@dataclass(frozen=True)
class Mark:
    """Where the next listed file of a kind belongs."""

    kind: MediaKind


def read_turns(fields: Mapping[str, Any], *, needs_marks: bool = False) -> list[dict[str, Any]]:
    """Return `{"role", "parts"}` per message of a row, every listed file placed.

    Args:
        fields: of the row.
        needs_marks: refuse listed files that no mark gives a place, instead of putting them first.

    Raises:
        BadRow: it is no conversation; the text says why.
    """
    name = "messages" if "messages" in fields else "conversations"
    messages = fields.get(name)
    if name not in fields:
        raise BadRow(f"no list 'messages' or 'conversations' (it has: {', '.join(fields)})")
    if not isinstance(messages, list) or not messages:
        raise BadRow(f"no list '{name}' with messages in it, found {messages!r:.60}")
    turns = [_turn(message, where=f"message {n}") for n, message in enumerate(messages, start=1)]
    files = {kind: listed_files(fields, kind) for kind in MEDIA_KINDS}
    keys = {kind: _list_key(fields, kind) for kind in MEDIA_KINDS}
    _place(turns, files, keys=keys, needs_marks=needs_marks)
    for number, turn in enumerate(turns, start=1):
        if len(turns) > 1 and turn["role"] != "user" and _media(turn):
            raise BadRow(f"message {number} of the {turn['role']} holds media; only questions can")
    return turns


def _turn(message: object, *, where: str) -> dict[str, Any]:
    """Return one message; its marks are still marks."""
    if not isinstance(message, Mapping):
        raise BadRow(f"{where}: expected an object, found {type(message).__name__}")
    named = message.get("role", message.get("from"))
    role = ROLES.get(str(named))
    if role is None:
        raise BadRow(f"{where}: unknown role {named!r}, expected one of {', '.join(ROLES)}")
    content = message.get("content", message.get("value"))
    return {"role": role, "parts": list(_parts(content, where=where))}


def _parts(content: object, *, where: str) -> Iterator[Part | Mark]:
    """Yield a message's texts, marks and files in reading order."""
    if isinstance(content, str):
        yield from _split(content)
        return
    if not isinstance(content, list):
        raise BadRow(f"{where}: expected a text or a list of parts, found {content!r}")
    for entry in content:
        kind = str(entry.get("type")) if isinstance(entry, Mapping) else ""
        if kind == "text" and isinstance(entry.get("text"), str):
            yield from _split(entry["text"])
        elif kind in PARTS:
            yield _file(entry, kind=PARTS[kind], value=entry.get(kind), where=where)
        else:
            raise BadRow(
                f"{where}: expected parts like {{type: text, text: ...}} or "
                f"{{type: video, video: path}}, found {entry!r}"
            )


def _split(text: str) -> Iterator[str | Mark]:
    """Take a text apart at its marks."""
    marks: dict[str, MediaKind] = {f"<{kind}>": kind for kind in MEDIA_KINDS}
    for piece in re.split(f"({'|'.join(marks)})", text):
        if piece in marks:
            yield Mark(marks[piece])
        elif piece.strip():
            yield piece.strip()


def listed_files(fields: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the files a row lists beside its messages, as `Part`s.

    Args:
        fields: of the row.
        kind: of media; the key of the list is this or its plural.

    Raises:
        BadRow: an entry names no file.
    """
    name = _list_key(fields, kind)
    value = fields.get(name) or []
    entries = value if isinstance(value, list) else [value]
    return [
        _file(
            entry if isinstance(entry, Mapping) else {}, kind=kind, value=entry, where=f"'{name}'"
        )
        for entry in entries
    ]


def _list_key(fields: Mapping[str, Any], kind: str) -> str:
    """Return under which key a row lists files of a kind."""
    return kind if kind in fields and f"{kind}s" not in fields else f"{kind}s"


def _file(entry: Mapping[str, Any], *, kind: str, value: object, where: str) -> dict[str, Any]:
    """Return a file with its span.

    Args:
        entry: may hold `start` and `end`, and the path if `value` does not.
        kind: of the file.
        value: its path, or an object that has it and may have the seconds.
        where: message or list, for messages.
    """
    holder = value if isinstance(value, Mapping) else entry
    path = value if isinstance(value, str) else holder.get("path", holder.get("url"))
    if not isinstance(path, str) or not path:
        hint = "; write what 'data' holds into a file" if "data" in holder else ""
        raise BadRow(f"{where}: expected the path of a file, found {value or dict(entry)!r}{hint}")
    path = path.removeprefix("file://")
    if re.match(r"[a-z]+://|data:", path):
        raise BadRow(
            f"{where}: {path[:60]!r} is no file; download it into the folder of `media`, or pack "
            "such files into shards"
        )
    return {"kind": kind, "path": path, **read_span({**entry, **holder}, where=where)}


def read_span(entry: Mapping[str, Any], *, where: str) -> dict[str, float]:
    """Return the seconds a file is cut to, those that are given, as `start_s` and `end_s`.

    Raises:
        BadRow: they are no span.
    """
    span = {}
    for name in ("start", "end"):
        value = entry.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise BadRow(f"{where}: '{name}' must be seconds, found {value!r}")
        span[f"{name}_s"] = float(value)
    if "start_s" in span and span.get("end_s", math.inf) <= span["start_s"]:
        raise BadRow(f"{where}: 'end' must come after 'start', found {dict(entry)!r}")
    return span


def _place(
    turns: Sequence[dict[str, Any]],
    files: Mapping[MediaKind, Sequence[dict[str, Any]]],
    *,
    keys: Mapping[MediaKind, str],
    needs_marks: bool,
) -> None:
    """Put listed files in the places of their marks, or all of them in front, in place."""
    parts = [part for turn in turns for part in turn["parts"]]
    for kind, listed in files.items():
        num_marks = parts.count(Mark(kind))
        if (num_marks or needs_marks) and num_marks != len(listed):
            raise BadRow(f"{num_marks} marks <{kind}>, but '{keys[kind]}' lists {_count(listed)}")
        if listed and not num_marks and not all(isinstance(part, str) for part in parts):
            raise BadRow(
                f"'{keys[kind]}' lists {_count(listed)}, but no mark <{kind}> says where they go, "
                f"while other files have places; the first is {listed[0]['path']}"
            )
    left = {kind: iter(listed) for kind, listed in files.items()}
    for turn in turns:
        turn["parts"] = [next(left[p.kind]) if isinstance(p, Mark) else p for p in turn["parts"]]
    opening = next((turn for turn in turns if turn["role"] != "system"), turns[0])
    opening["parts"] = [*(file for kind in MEDIA_KINDS for file in left[kind]), *opening["parts"]]


def _count(files: Sequence[dict[str, Any]]) -> str:
    return f"{len(files)} file" if len(files) == 1 else f"{len(files)} files"


def _media(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the files of a message."""
    return [part for part in turn["parts"] if isinstance(part, dict)]
