r"""Your own data without any Python: one conversation per line of a JSONL file.

    {"messages": [{"role": "user", "content": "<video>What happens?"},
                  {"role": "assistant", "content": "A ball bounces."}], "videos": ["a.mp4"]}

    {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"},
                                               {"type": "text", "text": "What happens?"}]}, ...]}

    {"conversations": [{"from": "human", "value": "<image>\nWhat is it?"},
                       {"from": "gpt", "value": "A bus."}], "image": "1.jpg"}

`<video>`, `<image>` and `<audio>` stand where the next file of their list belongs; without any of
them the files open the first message. `"start"` and `"end"` beside a file are the seconds it is
cut to. A lone assistant message is a caption. A `.json` file holds a list of the same objects.
Sources of the layouts: OpenAI's chat format, ShareGPT. How a row is read: `conversations`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from video_llama.common.errors import ConfigError
from video_llama.common.registry import registry
from video_llama.common.types import Form, MediaItem, MediaKind, Message, Sample
from video_llama.datasets.annotations import AnnotationReader
from video_llama.datasets.base import require_text
from video_llama.datasets.conversations import BadRow, read_turns
from video_llama.datasets.records import Mistake, Record, read_rows


@registry.register_dataset("messages")
class Messages(AnnotationReader):
    """Conversations with any media."""

    @dataclass(frozen=True)
    class Config(AnnotationReader.Config):
        """Keys of a messages entry."""

    config: Config
    suffixes = (".jsonl", ".json", ".gz")

    @property
    def kinds(self) -> None:
        """Samples may differ."""
        return

    def kinds_of(self, index: int) -> frozenset[MediaKind] | None:
        """Return the kinds of media of a sample, also of one without a text."""
        record = self._packed()[index]
        if record.fault is not None:
            return None
        parts = [part for turn in record.fields["turns"] for part in turn["parts"]]
        return frozenset(part["kind"] for part in parts if not isinstance(part, str))

    def records(self) -> Iterator[Record | Mistake]:
        """Yield the conversations of all files in file order."""
        for path in self.annotation_files():
            has_lines = path.suffixes[-2:] == [".jsonl", ".gz"] or path.suffix == ".jsonl"
            for row in _read_lines(path) if has_lines else read_rows(path):
                yield row if isinstance(row, Mistake) else self.read_row(row)

    def read_row(self, row: Record) -> Record | Mistake:
        """Bring a row of any layout into ours: a key, and turns as `read_turns` gives them."""
        try:
            turns = read_turns(row.fields)
        except BadRow as error:
            return Mistake(row.where, str(error))
        roles = [turn["role"] for turn in turns]
        if "assistant" not in roles:
            told = (
                f"nothing to learn: expected a message of the assistant, found {', '.join(roles)}"
            )
            return Mistake(row.where, told)
        return with_turns(row, turns)

    def build(self, record: Record, *, seed: int) -> Sample:
        """Turn a conversation into a sample, see `AnnotationReader.build`; nothing is random."""
        messages = messages_of(
            record.fields["turns"],
            where=record.where,
            find=lambda part: str(Path(self.media_folder(part["kind"])[1]) / part["path"]),
        )
        return Sample(key=record.key, messages=messages, form=form_of(messages))


def messages_of(
    turns: Sequence[Mapping[str, Any]],
    *,
    where: str,
    find: Callable[[Mapping[str, Any]], str | MediaItem],
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
        content = [p if isinstance(p, str) else _item(p, find(p)) for p in turn["parts"]]
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
    """Yield the objects of a JSONL file.

    Raises:
        ConfigError: a compressed one is damaged.
    """
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError(f"not a complete gzip file ({error})", where=str(path)) from error
    for number, line in enumerate(content.splitlines(), start=1):
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


def with_turns(row: Record, turns: Sequence[Mapping[str, Any]]) -> Record:
    """Return a row with nothing but its key and its turns; the key is its id, or its place."""
    given = row.fields.get("id")
    key = Path(row.where).name if given in (None, "") else str(given)
    return replace(row, key=key, fields={"turns": list(turns)})
