"""Readers of annotation files: a row per sample, packed small, mistakes of all rows together.

A row that cannot be read is one sample that cannot be used. If most of them are, or a file cannot
be read on from somewhere, the data set is not what the run file says it is, and refused.

The media lie in a folder of their own and are looked for one by one, when they are used.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.dist import is_main
from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.logger import get_logger
from video_llama.common.types import Sample
from video_llama.datasets.base import NUM_PROBED, DatasetReader, missing_path, unreadable
from video_llama.datasets.records import Mistake, PackedRecords, Record, unique_keys

MAX_BAD_ROWS = 0.5
"""Share of rows that cannot be read above which the file is not what it is taken for."""

NUM_NAMED = 3
"""Files that are named of those that cannot be read."""

MAX_LISTED = 10
"""Mistakes of one annotation file that are written out before "and N more"."""


class AnnotationReader(DatasetReader):
    """A data set with one row of an annotation file per sample.

    A new one writes `records`, `build` and `kinds`, and a `Config` that extends this one.
    """

    @dataclass(frozen=True)
    class Config(DatasetReader.Config):
        """Keys of every reader of annotations.

        Attributes:
            annotations: file, or folder of files, with one row per sample.
            media: folder that the paths in the annotations start from.
        """

        annotations: str
        media: str

    suffixes: tuple[str, ...] = (".json",)
    """File names that are read if `annotations` is a folder."""

    config: Config

    def __init__(self, config: Config, *, name: str) -> None:
        super().__init__(config, name=name)
        self._records: PackedRecords | None = None

    @abstractmethod
    def records(self) -> Iterator[Record | Mistake]:
        """Yield the rows of the annotations; what cannot be read is yielded as a `Mistake`."""

    @abstractmethod
    def build(self, record: Record, *, seed: int) -> Sample:
        """Turn a row into a sample whose media are not loaded.

        Args:
            record: the row.
            seed: for choices between several readings of it; differs per pass and record.

        Raises:
            MediaError: this one sample cannot be used.
        """

    def __len__(self) -> int:
        return len(self._packed())

    def sample(self, index: int, *, seed: int = 0) -> Sample:
        """Return a sample, see `DatasetReader.sample`."""
        record = self._packed()[index]
        if record.fault is not None:
            raise MediaError(record.fault, path=record.where)
        sample = self.build(record, seed=seed)
        sample.dataset = self.name
        return sample

    def key(self, index: int) -> str:
        """Return the key of a sample, also of one that cannot be used."""
        return self._packed()[index].key

    def missing(self) -> list[str]:
        """Look for files, rows and some media; a problem if none of those media is there."""
        problems = [
            f"datasets.{self.name}.{key}: {text}"
            for key, text in (
                ("annotations", unreadable(self.config.annotations)),
                ("media", unreadable(self.config.media)),
            )
            if text
        ]
        if problems:
            return problems
        try:
            length = len(self)
        except ConfigError as error:
            place = f"{error.where}: " if error.where else ""
            return [f"datasets.{self.name}.annotations: {place}{text}" for text in error.problems]
        return self._probe_media(length)

    def annotation_files(self) -> list[Path]:
        """Return the annotation files in a fixed order.

        Raises:
            ConfigError: there is none.
        """
        path = Path(self.config.annotations)
        if path.is_file():
            return [path]
        files = sorted(p for p in path.glob("*") if p.suffix in self.suffixes)
        if not files:
            text = missing_path(path) or f"{path} holds no file {' or '.join(self.suffixes)}"
            raise ConfigError(text)
        return files

    def _packed(self) -> PackedRecords:
        """Read the annotations on first use."""
        if self._records is None:
            mistakes: list[Mistake] = []
            rows = unique_keys(_sort_out(self.records(), mistakes))
            records = PackedRecords(itertools.islice(rows, self.config.max_samples))
            is_file_at_fault = any(mistake.extent == "file" for mistake in mistakes)
            if is_file_at_fault or len(mistakes) > MAX_BAD_ROWS * len(records):
                raise ConfigError(_list_mistakes(mistakes))
            if len(records) == 0:
                raise ConfigError(f"{self.config.annotations}: holds no sample")
            for line in _list_mistakes(mistakes) if is_main() else []:
                get_logger().warning("datasets.%s: a row cannot be used, %s", self.name, line)
            self._records = records
        return self._records

    def _probe_media(self, length: int) -> list[str]:
        """Tell whether nothing can be used, which is no fault of single files."""
        unusable: list[str] = []
        absent: dict[str, str] = {}
        for index in range(0, length, max(1, length // NUM_PROBED)):
            try:
                media = self.sample(index).media
            except MediaError as error:
                unusable.append(str(error))
                continue
            why_not = {item.path: text for item in media if (text := unreadable(item.path))}
            if not media or any(item.path not in why_not for item in media):
                return []
            absent |= why_not
        problems = []
        if absent:
            paths = ", ".join(list(absent)[:NUM_NAMED])
            problems.append(
                f"datasets.{self.name}.media: {self.config.media}: none of {len(absent)} files "
                f"looked for can be read: {next(iter(absent.values()))} (looked for {paths})"
            )
        elif unusable:
            problems.append(
                f"datasets.{self.name}.annotations: none of {len(unusable)} rows looked at can be "
                f"used, e.g. {unusable[0]}"
            )
        return problems


def _sort_out(rows: Iterable[Record | Mistake], mistakes: list[Mistake]) -> Iterator[Record]:
    """Pass records on, also those nobody can use, and note mistakes."""
    for row in rows:
        if isinstance(row, Record):
            yield row
            continue
        mistakes.append(row)
        if row.extent == "row":
            yield row.as_record()


def _list_mistakes(mistakes: Sequence[Mistake]) -> list[str]:
    """Write mistakes out, not more than a screen can hold."""
    lines = [f"{mistake.where}: {mistake.reason}" for mistake in mistakes[:MAX_LISTED]]
    if len(mistakes) > MAX_LISTED:
        lines.append(f"and {len(mistakes) - MAX_LISTED} more rows like these")
    return lines
