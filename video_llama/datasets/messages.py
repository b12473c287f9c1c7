r"""Your own data without any Python: one conversation per line of a JSONL file.

    {"messages": [{"role": "user", "content": "<video>What happens?"},
                  {"role": "assistant", "content": "A ball bounces."}], "videos": ["a.mp4"]}

    {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"},
                                               {"type": "text", "text": "What happens?"}]}, ...]}

    {"conversations": [{"from": "human", "value": "<image>\nWhat is it?"},
                       {"from": "gpt", "value": "A bus."}], "image": "1.jpg"}

`<video>`, `<image>` and `<audio>` stand where the next file of their list belongs; without any of
them the files open the first message. A lone assistant message is a caption. A `.json` file holds
a list of the same objects. Sources of the layouts: OpenAI's chat format, ShareGPT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from video_llama.common.registry import registry
from video_llama.common.types import MediaItem, MediaKind, Message, Role, Sample
from video_llama.datasets.annotations import AnnotationReader
from video_llama.datasets.base import require_text
from video_llama.datasets.records import Mistake, Record, read_rows

ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")

Part = str | dict[str, str]
"""A text, or `{"kind": ..., "path": ...}`."""


@registry.register_dataset("messages")
class Messages(AnnotationReader):
    """Conversations with any media."""

    @dataclass(frozen=True)
    class Config(AnnotationReader.Config):
        """Keys of a messages entry."""

    config: Config
    suffixes = (".jsonl", ".json")

    @property
    def kinds(self) -> None:
        """Samples may differ."""
        return

    def records(self) -> Iterator[Record | Mistake]:
        """Yield the conversations of all files in file order."""
        for path in self.annotation_files():
            for row in _read_lines(path) if path.suffix == ".jsonl" else read_rows(path):
                yield row if isinstance(row, Mistake) else _read_row(row)

    def build(self, record: Record, *, seed: int) -> Sample:
        """Turn a conversation into a sample, see `AnnotationReader.build`; nothing is random."""
        messages = []
        for turn in record.fields["turns"]:
            message = Message(turn["role"], [self._part(part) for part in turn["parts"]])
            require_text(message.text, what=f"a text of the {message.role}", where=record.where)
            messages.append(message)
        caption = [message.role for message in messages] == ["assistant"]
        return Sample(key=record.key, messages=messages, form="caption" if caption else "instruct")

    def _part(self, part: Part) -> str | MediaItem:
        if isinstance(part, str):
            return part
        path = Path(self.config.media) / part["path"]
        return MediaItem(kind=cast(MediaKind, part["kind"]), path=str(path))


class _BadRow(Exception):
    """A row that cannot be read; never leaves this file."""


def _read_lines(path: Path) -> Iterator[Record | Mistake]:
    """Yield the objects of a JSONL file."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            yield Mistake(where, f"not valid JSON: {error}")
            continue
        if isinstance(row, dict):
            yield Record(key="", fields=row, where=where)
        elif row is not None:
            yield Mistake(where, f"expected an object, found {type(row).__name__}")


def _read_row(row: Record) -> Record | Mistake:
    """Bring a row of any layout into ours."""
    try:
        turns = _turns(row.fields)
    except _BadRow as error:
        return Mistake(row.where, str(error))
    key = row.fields.get("id", Path(row.where).name)
    return replace(row, key=str(key), fields={"turns": turns})


def _turns(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return `{"role", "parts"}` per message, every listed file placed."""
    messages = fields.get("messages", fields.get("conversations"))
    if not isinstance(messages, list) or not messages:
        raise _BadRow(f"no list 'messages' or 'conversations' (it has: {', '.join(fields)})")
    files = {kind: _listed(fields, kind) for kind in KINDS}
    turns = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise _BadRow(f"message {number} is no object")
        role = ROLES.get(str(message.get("role", message.get("from"))))
        if role is None:
            raise _BadRow(f"message {number} has no role of {', '.join(ROLES)}")
        content = message.get("content", message.get("value"))
        turns.append({"role": role, "parts": _parts(content, files, number=number)})
    placed = any(isinstance(part, dict) for turn in turns for part in turn["parts"])
    left = [{"kind": kind, "path": path} for kind, paths in files.items() for path in paths]
    if left and placed:
        raise _BadRow(f"{len(left)} listed files have no placeholder, e.g. {left[0]['path']}")
    opening = next((turn for turn in turns if turn["role"] != "system"), turns[0])
    opening["parts"] = [*left, *opening["parts"]]
    return turns


def _listed(fields: Mapping[str, Any], kind: MediaKind) -> list[str]:
    """Return the files a row lists beside its messages."""
    value = fields.get(f"{kind}s", fields.get(kind)) or []
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise _BadRow(f"'{kind}' must be a path or a list of paths")
    return list(paths)


def _parts(content: object, files: dict[MediaKind, list[str]], *, number: int) -> list[Part]:
    """Return a message's texts and files in reading order; takes files off their lists."""
    if isinstance(content, str):
        return _split(content, files, number=number)
    if not isinstance(content, list):
        raise _BadRow(f"message {number} has no text")
    parts: list[Part] = []
    for entry in content:
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if kind == "text" and isinstance(entry.get("text"), str):
            parts.append(entry["text"])
        elif kind in KINDS and isinstance(entry.get(kind), str):
            parts.append({"kind": kind, "path": entry[kind]})
        else:
            raise _BadRow(
                f"message {number}: expected parts like {{type: text, text: ...}} or "
                f"{{type: video, video: path}}, found {entry!r}"
            )
    return parts


def _split(text: str, files: dict[MediaKind, list[str]], *, number: int) -> list[Part]:
    """Put the next listed file in the place of every placeholder."""
    parts: list[Part] = []
    for piece in re.split(r"(<(?:image|video|audio)>)", text):
        kind = next((k for k in KINDS if piece == f"<{k}>"), None)
        if kind is None:
            parts += [piece.strip()] if piece.strip() else []
        elif files[kind]:
            parts.append({"kind": kind, "path": files[kind].pop(0)})
        else:
            raise _BadRow(f"message {number}: {piece} has no file, '{kind}s' lists too few")
    return parts
