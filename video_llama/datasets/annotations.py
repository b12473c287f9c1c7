"""Readers of annotation files: a row per sample, packed small, mistakes of all rows together.

The media lie in a folder of their own and are looked for one by one, when they are used.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.types import Sample
from video_llama.datasets.base import NUM_PROBED, DatasetReader, missing_path
from video_llama.datasets.records import Mistake, PackedRecords, Record, unique_keys

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
                ("annotations", missing_path(self.config.annotations)),
                ("media", missing_path(self.config.media)),
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
            if mistakes:
                raise ConfigError(_list_mistakes(mistakes))
            if len(records) == 0:
                raise ConfigError(f"{self.config.annotations}: holds no sample")
            self._records = records
        return self._records

    def _probe_media(self, length: int) -> list[str]:
        """Tell whether the media folder is the wrong one altogether."""
        step = max(1, length // NUM_PROBED)
        absent: list[str] = []
        for index in range(0, length, step):
            try:
                media = self.sample(index).media
            except MediaError:
                continue
            if not media or any(Path(item.path).exists() for item in media):
                return []
            absent.extend(item.path for item in media)
        if not absent:
            return []
        return [
            f"datasets.{self.name}.media: none of {len(absent)} files looked for is there, e.g. "
            f"{missing_path(absent[0])}"
        ]


def _sort_out(rows: Iterable[Record | Mistake], mistakes: list[Mistake]) -> Iterator[Record]:
    """Pass records on and put mistakes aside."""
    for row in rows:
        if isinstance(row, Mistake):
            mistakes.append(row)
        else:
            yield row


def _list_mistakes(mistakes: Sequence[Mistake]) -> list[str]:
    """Write mistakes out, not more than a screen can hold."""
    lines = [f"{mistake.where}: {mistake.reason}" for mistake in mistakes[:MAX_LISTED]]
    if len(mistakes) > MAX_LISTED:
        lines.append(f"and {len(mistakes) - MAX_LISTED} more rows like these")
    return lines
