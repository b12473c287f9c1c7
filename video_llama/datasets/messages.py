r"""Your own data without any Python: one conversation per line of a JSONL file.

    {"messages": [{"role": "user", "content": "<video>What happens?"},
                  {"role": "assistant", "content": "A ball bounces."}], "videos": ["a.mp4"]}

    {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"},
                                               {"type": "text", "text": "What happens?"}]}, ...]}

    {"conversations": [{"from": "human", "value": "<image>\nWhat is it?"},
                       {"from": "gpt", "value": "A bus."}], "image": "1.jpg"}

`<video>`, `<image>` and `<audio>` stand where the next file of their list belongs; without any of
them the files open the first message. `"start"` and `"end"` beside a file in a list of parts are
the seconds it is cut to. A lone assistant message is a caption. A `.json` file holds a list of
the same objects. Sources of the layouts: OpenAI's chat format, ShareGPT.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from video_llama.common.registry import registry
from video_llama.common.types import Form, MediaItem, MediaKind, Message, Role, Sample
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

Part = str | dict[str, Any]
"""A text, or `{"kind": ..., "path": ...}`, with `start_s` and `end_s` if only a span is meant."""


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
        folder = Path(self.config.media)
        messages = messages_of(
            record.fields["turns"], where=record.where, find=lambda path: str(folder / path)
        )
        return Sample(key=record.key, messages=messages, form=form_of(messages))


class BadRow(Exception):
    """A conversation that cannot be read; never leaves a reader."""


def messages_of(
    turns: Sequence[Mapping[str, Any]], *, where: str, find: Callable[[str], str | MediaItem]
) -> list[Message]:
    """Turn what `read_turns` gives into messages.

    Args:
        turns: `{"role", "parts"}` per message.
        where: file and row, for messages.
        find: where a listed file lies: its path, or an item whose kind and span are still open.

    Raises:
        MediaError: a message has no text, or a file cannot be found.
    """
    messages = []
    for turn in turns:
        content = [p if isinstance(p, str) else _item(p, find(p["path"])) for p in turn["parts"]]
        message = Message(turn["role"], content)
        require_text(message.text, what=f"a text of the {message.role}", where=where)
        messages.append(message)
    return messages


def form_of(messages: Sequence[Message]) -> Form:
    """Say which form a conversation has: a lone answer is a caption."""
    return "caption" if [message.role for message in messages] == ["assistant"] else "instruct"


def _item(part: Mapping[str, Any], found: str | MediaItem) -> MediaItem:
    """Return a part's item with its kind and span."""
    item = MediaItem(kind=part["kind"], path=found) if isinstance(found, str) else found
    return replace(item, kind=part["kind"], start_s=part.get("start_s"), end_s=part.get("end_s"))


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
        turns = read_turns(row.fields)
    except BadRow as error:
        return Mistake(row.where, str(error))
    key = row.fields.get("id", Path(row.where).name)
    return replace(row, key=str(key), fields={"turns": turns})


def read_turns(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return `{"role", "parts"}` per message of a row, every listed file placed.

    Raises:
        BadRow: it is no conversation; the text says why.
    """
    messages = fields.get("messages", fields.get("conversations"))
    if not isinstance(messages, list) or not messages:
        raise BadRow(f"no list 'messages' or 'conversations' (it has: {', '.join(fields)})")
    files = {kind: _listed(fields, kind) for kind in KINDS}
    turns = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise BadRow(f"message {number} is no object")
        role = ROLES.get(str(message.get("role", message.get("from"))))
        if role is None:
            raise BadRow(f"message {number} has no role of {', '.join(ROLES)}")
        content = message.get("content", message.get("value"))
        turns.append({"role": role, "parts": _parts(content, files, number=number)})
    placed = any(isinstance(part, dict) for turn in turns for part in turn["parts"])
    left = [{"kind": kind, "path": path} for kind, paths in files.items() for path in paths]
    if left and placed:
        raise BadRow(f"{len(left)} listed files have no placeholder, e.g. {left[0]['path']}")
    opening = next((turn for turn in turns if turn["role"] != "system"), turns[0])
    opening["parts"] = [*left, *opening["parts"]]
    return turns


def _listed(fields: Mapping[str, Any], kind: MediaKind) -> list[str]:
    """Return the files a row lists beside its messages."""
    value = fields.get(f"{kind}s", fields.get(kind)) or []
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise BadRow(f"'{kind}' must be a path or a list of paths")
    return list(paths)


def _parts(content: object, files: dict[MediaKind, list[str]], *, number: int) -> list[Part]:
    """Return a message's texts and files in reading order; takes files off their lists."""
    if isinstance(content, str):
        return _split(content, files, number=number)
    if not isinstance(content, list):
        raise BadRow(f"message {number} has no text")
    parts: list[Part] = []
    for entry in content:
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if kind == "text" and isinstance(entry.get("text"), str):
            parts.append(entry["text"])
        elif kind in KINDS and isinstance(entry.get(kind), str):
            parts.append({"kind": kind, "path": entry[kind], **_span(entry, number=number)})
        else:
            raise BadRow(
                f"message {number}: expected parts like {{type: text, text: ...}} or "
                f"{{type: video, video: path}}, found {entry!r}"
            )
    return parts


def _span(entry: Mapping[str, Any], *, number: int) -> dict[str, float]:
    """Return the seconds a part begins and ends at, those that are given."""
    span = {}
    for name in ("start", "end"):
        value = entry.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise BadRow(f"message {number}: '{name}' must be seconds, found {value!r}")
        span[f"{name}_s"] = float(value)
    if "start_s" in span and span.get("end_s", math.inf) <= span["start_s"]:
        raise BadRow(f"message {number}: 'end' must come after 'start', found {dict(entry)!r}")
    return span


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
            raise BadRow(f"message {number}: {piece} has no file, '{kind}s' lists too few")
    return parts
