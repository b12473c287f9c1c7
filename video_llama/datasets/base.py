"""What every reader of a data set shares: its records, packed small, and its mistakes, together.

A reader turns an annotation file into `Sample`s whose media are named but not opened. Mistakes in
the annotations (not JSON, a missing column) are `ConfigError`s, found when the file is read;
what is wrong with a single sample (an empty caption, a missing clip) is a `MediaError`, raised
when that sample is asked for, so that the mixture can count it and go on.

Decoding and tokens are not its business, see `stream`.
"""

from __future__ import annotations

import difflib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.placeholders import is_placeholder, placeholder_hint
from video_llama.common.types import MediaItem, MediaKind, Sample
from video_llama.datasets.records import Mistake, PackedRecords, Record, unique_keys

MAX_LISTED = 10
"""Mistakes of one annotation file that are written out before "and N more"."""

NUM_PROBED = 16
"""Samples whose files `missing` looks for before a run starts."""


class DatasetReader(ABC):
    """A data set that can say how long it is and give any of its samples.

    A new one writes `records` and `build`, and a `Config` that extends this one.

    Args:
        config: an instance of the class's own `Config`.
        name: of the entry in the run file, for messages and randomness.
    """

    @dataclass(frozen=True)
    class Config:
        """Keys that every reader has.

        Attributes:
            annotations: file, or folder of files, with one row per sample.
            media: folder that the paths in the annotations start from.
            max_samples: read only so many rows from the beginning.
        """

        annotations: str
        media: str
        max_samples: int | None = None

        def __post_init__(self) -> None:
            if self.max_samples is not None and self.max_samples < 1:
                raise ValueError(f"max_samples must be at least 1, found {self.max_samples}")

    suffixes: tuple[str, ...] = (".json",)
    """File names that are read if `annotations` is a folder."""

    where_from: str = ""
    """Where the published data can be had, shown when they are missing."""

    config: Config

    def __init__(self, config: Config, *, name: str) -> None:
        self.config = config
        self.name = name
        self._records: PackedRecords | None = None

    @property
    @abstractmethod
    def kinds(self) -> tuple[MediaKind, ...] | None:
        """Kinds of media of every sample in text order, None if samples differ."""

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
        """Return a sample; its media are named, not opened.

        Args:
            index: 0 .. len - 1.
            seed: for choices between several readings of one row.

        Raises:
            MediaError: this one sample cannot be used (empty text, no such file).
            ConfigError: the annotations cannot be read.
        """
        record = self._packed()[index]
        sample = self.build(record, seed=seed)
        sample.dataset = self.name
        return sample

    def key(self, index: int) -> str:
        """Return the key of a sample, also of one that cannot be used."""
        return self._packed()[index].key

    def missing(self) -> list[str]:
        """Look at everything that must be there before a run starts.

        Returns:
            One sentence per problem, opening with the dotted key it is about; empty if all is
            well. Single missing clips are no problem, unless none of those probed is there.
        """
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


def require_text(value: object, *, what: str, where: str) -> str:
    """Return a text without surrounding whitespace.

    Raises:
        MediaError: it is empty, or not a number as spreadsheets write an empty cell.
    """
    if not isinstance(value, str) or value.strip().lower() in ("", "nan"):
        raise MediaError(f"{what} is empty", path=where)
    return value.strip()


def stream_items(path: Path, streams: Sequence[MediaKind]) -> list[MediaItem]:
    """Return one item per stream of a file: its pictures, its own sound, or both."""
    return [MediaItem(kind=kind, path=str(path)) for kind in streams]


def check_streams(streams: Sequence[str]) -> None:
    """Refuse an empty list of streams and one that names a stream twice.

    Raises:
        ValueError: with the sentence for the user.
    """
    if not streams or len(set(streams)) != len(streams):
        raise ValueError(f"streams must name one or more different streams, found {list(streams)}")


def missing_path(path: str | Path) -> str | None:
    """Say that a path does not exist and which names come nearest; None if it exists."""
    path = Path(path)
    if path.exists():
        return None
    if is_placeholder(path):
        return f"there is no {path}{placeholder_hint(path)}"
    folder, wanted = path.parent, path.name
    while not folder.is_dir() and folder != folder.parent:
        folder, wanted = folder.parent, folder.name
    names = [entry.name for entry in itertools.islice(folder.iterdir(), 100_000)]
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    hint = f"; nearest in {folder}: {', '.join(near)}" if near else ""
    return f"there is no {path}{hint}"


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
