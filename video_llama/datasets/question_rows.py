r"""Questions to be answered, one per line of a JSONL file.

    {"question": "What happens?", "video": "a.mp4"}
    {"id": 7, "question": "And here?", "media": ["b.mp4", "c.jpg"], "start": 2.5, "end": 8}
    {"messages": [{"role": "user", "content": "<video>What is it?"},
                  {"role": "assistant", "content": "A dog."},
                  {"role": "user", "content": "Which breed?"}], "video": "a.mp4", "frames": 16}

Messages and files are laid out as in `messages`; what stands under "media" may be anything. Rows
are read strictly, all mistakes at once, and no medium is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from video_llama.common.errors import ConfigError
from video_llama.common.registry import unknown_name
from video_llama.common.types import MEDIA_KINDS, MediaKind
from video_llama.datasets.conversations import PARTS, BadRow, listed_files, read_span, read_turns

FILE_LISTS = (*MEDIA_KINDS, *(f"{kind}s" for kind in MEDIA_KINDS), "media")
SPANS = ("start", "end")
SAMPLING = ("frames", "fps", "sound")
ROW_KEYS = ("id", "question", "messages", *FILE_LISTS, *SPANS, *SAMPLING)
FILE_KEYS = ("path", "url", *SPANS)
MESSAGE_KEYS = ("role", "content", "from", "value")
PART_KEYS = ("type", "text", *PARTS, *SPANS)
MAX_LISTED = 20
"""Mistakes shown at once."""


@dataclass(frozen=True)
class NamedFile:
    """A file of a question, not opened.

    Attributes:
        path: where it lies.
        kind: what the row says it is, None if its content decides.
        start_s: first second to use, None for the beginning.
        end_s: last second to use, None for the end.
        frames: pictures to take of a clip, None for the model's own number.
        fps: pictures to take a second, likewise.
        sound: whether the sound of a clip is used.
    """

    path: str
    kind: MediaKind | None = None
    start_s: float | None = None
    end_s: float | None = None
    frames: int | None = None
    fps: float | None = None
    sound: bool = True


@dataclass(frozen=True)
class AskedTurn:
    """One message: texts and files in reading order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | NamedFile, ...]


@dataclass(frozen=True)
class QuestionRow:
    """One line of the file.

    Attributes:
        index: of the row, from 0.
        id: as given, or the number of the line.
        where: file and line, for messages.
        turns: the conversation; the last one is the question.
    """

    index: int
    id: str | int
    where: str
    turns: tuple[AskedTurn, ...]

    @property
    def question(self) -> str:
        """The words of the last turn."""
        return " ".join(part for part in self.turns[-1].parts if isinstance(part, str))

    @property
    def files(self) -> tuple[NamedFile, ...]:
        """All files in text order."""
        return tuple(
            part for turn in self.turns for part in turn.parts if not isinstance(part, str)
        )


@dataclass(frozen=True)
class QuestionFile:
    """All rows of a file.

    Attributes:
        rows: in file order.
        digest: of the file's content.
    """

    rows: tuple[QuestionRow, ...]
    digest: str


def read_questions(path: Path, *, media: Path | None = None) -> QuestionFile:
    """Read a file of questions.

    Args:
        path: JSONL, UTF-8; empty lines are passed over.
        media: folder that relative paths start from, None for the folder of `path`.

    Raises:
        ConfigError: rows are wrong; all of them are named, or there is none.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    folder = path.parent if media is None else media
    rows: list[QuestionRow] = []
    problems: list[str] = []
    taken: dict[str, str] = {}
    for number, line in _lines(content):
        where = f"{path}:{number}"
        try:
            row = _read_row(line, folder=folder, index=len(rows), number=number, where=where)
        except BadRow as error:
            problems.append(f"{where}: {error}")
            continue
        if str(row.id) in taken:
            problems.append(f"{where}: id {row.id!r} is that of {taken[str(row.id)]} too")
        taken.setdefault(str(row.id), where)
        rows.append(row)
    if problems:
        more = len(problems) - MAX_LISTED
        raise ConfigError(problems[:MAX_LISTED] + ([f"and {more} more"] if more > 0 else []))
    if not rows:
        raise ConfigError("holds no question", where=str(path))
    return QuestionFile(tuple(rows), hashlib.blake2b(content, digest_size=8).hexdigest())


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield lines that are not empty, with their numbers from 1."""
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _read_row(line: bytes, *, folder: Path, index: int, number: int, where: str) -> QuestionRow:
    """Read one line."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise BadRow(f"not valid JSON: {error}") from error
    except RecursionError as error:
        raise BadRow("not valid JSON: nested too deeply") from error
    if not isinstance(fields, dict):
        raise BadRow(f"expected an object, found {type(fields).__name__}")
    _check_keys(fields, ROW_KEYS, what="key")
    key = fields.get("id", number)
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        raise BadRow(f"'id' must be a text or a whole number, found {key!r}")
    turns = _turns(fields)
    how = {**read_span(fields, where="the row"), **_sampling(fields)}
    asked = tuple(
        AskedTurn(
            turn["role"],
            tuple(p if isinstance(p, str) else _named(p, folder, how) for p in turn["parts"]),
        )
        for turn in turns
    )
    row = QuestionRow(index, key, where, _heard_once(asked))
    if how and not row.files:
        raise BadRow(
            f"{', '.join(k for k in (*SPANS, *SAMPLING) if k in fields)}: no file is named"
        )
    return row


def _heard_once(turns: tuple[AskedTurn, ...]) -> tuple[AskedTurn, ...]:
    """Only look at a clip whose sound has a place of its own."""
    files = [part for turn in turns for part in turn.parts if isinstance(part, NamedFile)]
    heard = {file.path for file in files if file.kind == "audio"}

    def settled(part: str | NamedFile) -> str | NamedFile:
        is_both = isinstance(part, NamedFile) and part.kind == "video" and part.path in heard
        return replace(part, sound=False) if is_both and isinstance(part, NamedFile) else part

    return tuple(replace(turn, parts=tuple(map(settled, turn.parts))) for turn in turns)


def _turns(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the conversation of a row, its files placed.

    Raises:
        BadRow: it is none, or it does not end with a question.
    """
    _check_lists(fields)
    turns = read_turns({**fields, "messages": _messages(fields)})
    roles = [turn["role"] for turn in turns]
    talk = roles[roles[0] == "system" :]
    if not talk or talk != (["user", "assistant"] * len(talk))[: len(talk)] or talk[-1] != "user":
        raise BadRow(
            "expected questions and answers in turn, and a question at the end, found messages "
            f"of: {', '.join(roles)}"
        )
    for number, turn in enumerate(turns, start=1):
        if not any(isinstance(part, str) for part in turn["parts"]):
            raise BadRow(f"message {number} has no text")
    first = turns[-len(talk)]
    first["parts"] = [*listed_files(fields, "media"), *first["parts"]]
    return turns


def _messages(fields: Mapping[str, Any]) -> object:
    """Return the messages of a row, a lone question as one of them."""
    if ("question" in fields) == ("messages" in fields):
        raise BadRow("expected either 'question' or 'messages'")
    if "messages" in fields:
        _check_messages(fields["messages"])
        return fields["messages"]
    question = fields["question"]
    if not isinstance(question, str) or not question.strip():
        raise BadRow(f"'question' must be a text, found {question!r}")
    return [{"role": "user", "content": question}]


def _check_lists(fields: Mapping[str, Any]) -> None:
    """Refuse lists of files, and keys of files, that nobody would read."""
    for kind in MEDIA_KINDS:
        if {kind, f"{kind}s"} <= set(fields):
            raise BadRow(f"both '{kind}' and '{kind}s'; put all files into one list")
    for name in FILE_LISTS:
        value = fields.get(name)
        if name in fields and not value:
            raise BadRow(
                f"'{name}' names no file, found {json.dumps(value)}; leave it out of a question "
                "about none"
            )
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, dict):
                _check_keys(entry, FILE_KEYS, what=f"key of '{name}'")


def _check_messages(messages: object) -> None:
    """Refuse keys of messages and their parts that nobody would read."""
    for message in messages if isinstance(messages, list) else []:
        if not isinstance(message, dict):
            continue
        _check_keys(message, MESSAGE_KEYS, what="key of a message")
        parts = message.get("content", message.get("value"))
        for part in parts if isinstance(parts, list) else []:
            if isinstance(part, dict):
                _check_keys(part, PART_KEYS, what="key of a part")


def _check_keys(fields: Mapping[str, Any], known: Sequence[str], *, what: str) -> None:
    """Refuse unknown keys.

    Raises:
        BadRow: with the nearest known one.
    """
    for name in fields:
        if name not in known:
            raise BadRow(unknown_name(name, known, what=what))


def _sampling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the files of a row are to be sampled."""
    given = {name: fields[name] for name in SAMPLING if fields.get(name) is not None}
    frames, fps, sound = given.get("frames", 1), given.get("fps", 1), given.get("sound", True)
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise BadRow(f"'frames' must be a whole number from 1 on, found {frames!r}")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e4:
        raise BadRow(f"'fps' must be a number above 0, found {fps!r}")
    if not isinstance(sound, bool):
        raise BadRow(f"'sound' must be true or false, found {sound!r}")
    if len({"frames", "fps"} & set(given)) == 2:
        raise BadRow("'frames' and 'fps' both say how many pictures are taken; give one")
    return given


def _named(part: Mapping[str, Any], folder: Path, how: Mapping[str, Any]) -> NamedFile:
    """Return a file of a row; its own seconds go before those of the row."""
    own = {name: part[name] for name in ("start_s", "end_s") if name in part}
    if own:
        how = {name: value for name, value in how.items() if name not in ("start_s", "end_s")}
    kind = cast("MediaKind | None", part["kind"] if part["kind"] in MEDIA_KINDS else None)
    return NamedFile(str(folder / part["path"]), kind, **{**how, **own})
