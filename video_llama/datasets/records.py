"""Rows of annotation files: what a reader makes of them, and how millions of them are kept."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from video_llama.common.errors import ConfigError


@dataclass(frozen=True)
class Record:
    """One row of an annotation file.

    Attributes:
        key: name of the row; the base makes it unique by appending "#2", "#3", ...
        fields: what the reader needs of it, JSON types only.
        where: file and row, for messages.
        fault: why the row cannot be used, None if it can.
    """

    key: str
    fields: Mapping[str, Any]
    where: str
    fault: str | None = None


@dataclass(frozen=True)
class Mistake:
    """Something in an annotation file that nobody could read.

    Attributes:
        where: file, and row if it is one.
        reason: in words.
        extent: one row costs its sample; a mistake of the file costs what comes after it, and the
            run does not start with one.
    """

    where: str
    reason: str
    extent: Literal["row", "file"] = "row"

    def as_record(self) -> Record:
        """Return a row that keeps its place among the others, and that nobody can use."""
        return Record(key=Path(self.where).name, fields={}, where=self.where, fault=self.reason)


class PackedRecords:
    """Records as one block of bytes.

    Millions of small Python objects cost gigabytes, and each data worker would copy them merely
    by looking (reference counts live in the objects); a block of bytes is shared.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._block = bytearray()
        self._ends = array("q", [0])
        for record in records:
            packed = [record.key, record.fields, record.where, record.fault]
            self._block += json.dumps(packed).encode()
            self._ends.append(len(self._block))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        packed = self._block[self._ends[index] : self._ends[index + 1]]
        key, fields, where, fault = json.loads(packed)
        return Record(key=key, fields=fields, where=where, fault=fault)


def unique_keys(records: Iterable[Record]) -> Iterator[Record]:
    """Number the second and later records of equal keys."""
    counts: dict[str, int] = {}
    for record in records:
        key = record.key
        while key in counts:
            counts[record.key] += 1
            key = f"{record.key}#{counts[record.key]}"
        counts[key] = 1
        yield replace(record, key=key)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ConfigError: it is not JSON, or not UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"not valid JSON: {error.msg} in column {error.colno}", where=f"{path}:{error.lineno}"
        ) from error
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: {error.reason} at byte {error.start}"
        raise ConfigError(reason, where=str(path)) from error


def read_rows(path: Path, *, under: str | None = None) -> Iterator[Record | Mistake]:
    """Yield the objects of a JSON list with their place; the key is left empty.

    Args:
        path: the file.
        under: key of the top-level object that holds the list, None if the list is the top.
    """
    content = read_json(path)
    if under is not None:
        if not isinstance(content, dict) or not isinstance(content.get(under), list):
            reason = f"expected an object with a list '{under}' at the top"
            yield Mistake(str(path), reason, extent="file")
            return
        content = content[under]
    if not isinstance(content, list):
        reason = f"expected a list of rows, found {type(content).__name__}"
        yield Mistake(str(path), reason, extent="file")
        return
    for number, row in enumerate(content, start=1):
        where = f"{path} row {number}"
        if isinstance(row, dict):
            yield Record(key="", fields=row, where=where)
        else:
            yield Mistake(where, f"expected an object, found {type(row).__name__}")


def lacking(fields: Mapping[str, Any], needed: Sequence[str]) -> str | None:
    """Say which needed fields a row does not have, None if it has them all."""
    absent = [name for name in needed if name not in fields]
    if not absent:
        return None
    return f"no {', '.join(map(repr, absent))} (it has: {', '.join(fields) or 'nothing'})"
