"""Readers of annotation files: a row per sample, packed small, mistakes of all rows together.

A row that cannot be read is one sample that cannot be used. If most of them are, or a file cannot
be read on from somewhere, the data set is not what the run file says it is, and refused.

The media lie in a folder of their own and are looked for one by one, when they are used.
"""

from __future__ import annotations

import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from video_llama.common.dist import is_main
from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.logger import get_logger
from video_llama.common.types import MEDIA_KINDS, MediaKind, Sample
from video_llama.datasets.base import NUM_PROBED, DatasetReader, missing_path, unreadable
from video_llama.datasets.records import Mistake, PackedRecords, Record, unique_keys

MAX_BAD_ROWS = 0.5
"""Share of rows that cannot be read above which the file is not what it is taken for."""

NUM_NAMED = 3
"""Files that are named of those that cannot be read."""

MANY_PROBED = 8 * NUM_PROBED
"""Samples looked at where they differ in their media."""

FEW_FILES = 4
"""So few files of a kind may be missing by chance, where files of other kinds are there."""

BLOCK = 1 << 20
"""Bytes of a file that are hashed at once."""

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
            annotations: file, or folder of files, with one row per sample; or a list of such.
            media: folder that the paths in the annotations start from.
        """

        annotations: str | tuple[str, ...]
        media: str

        @property
        def annotation_paths(self) -> tuple[str, ...]:
            """Files and folders of the annotations, one or several."""
            given = self.annotations
            return (given,) if isinstance(given, str) else given

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
            for key, path in self.named_paths
            if (text := unreadable(path))
        ]
        if problems:
            return problems
        try:
            length = len(self)
        except ConfigError as error:
            place = f"{error.where}: " if error.where else ""
            return [f"datasets.{self.name}.annotations: {place}{text}" for text in error.problems]
        return self._probe_media(length)

    @property
    def sources(self) -> tuple[str, ...]:
        """Every file, or folder of files, that decides what the samples are, media apart."""
        return self.config.annotation_paths

    @property
    def named_paths(self) -> list[tuple[str, str]]:
        """What must be there before a row is read, behind the keys that name it."""
        paths = [("annotations", path) for path in self.config.annotation_paths]
        return paths + [*dict.fromkeys(map(self.media_folder, self.kinds or MEDIA_KINDS))]

    def fingerprint(self) -> str:
        """Return a hash of the files and of how they are read; where they lie does not matter."""
        how = replace(self.config, annotations="", media="")
        digest = hashlib.blake2b(repr([type(self).__qualname__, how]).encode(), digest_size=16)
        for source in self.sources:
            for path in self._files_of(Path(source)):
                with path.open("rb") as file:
                    while block := file.read(BLOCK):
                        digest.update(block)
        return digest.hexdigest()

    def media_folder(self, kind: MediaKind) -> tuple[str, str]:
        """Return the folder that paths of a kind start from, behind the key that names it."""
        return "media", self.config.media

    def annotation_files(self) -> list[Path]:
        """Return the annotation files in a fixed order.

        Raises:
            ConfigError: there is none.
        """
        return [
            file for path in self.config.annotation_paths for file in self._files_of(Path(path))
        ]

    def _files_of(self, path: Path) -> list[Path]:
        """Return a file, or those of a folder in the order of their names."""
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
                raise ConfigError(f"{', '.join(self.config.annotation_paths)}: holds no sample")
            for line in _list_mistakes(mistakes) if is_main() else []:
                get_logger().warning("datasets.%s: a row cannot be used, %s", self.name, line)
            self._records = records
        return self._records

    def _probe_media(self, length: int) -> list[str]:
        """Tell whether nothing can be used, or no file of a kind; both are no fault of files."""
        unusable: list[str] = []
        found: set[MediaKind | None] = set()
        absent: dict[MediaKind, dict[str, str]] = {}
        # Where samples differ, a rare kind must be met often enough to be judged.
        num_probed = NUM_PROBED if self.kinds is not None else MANY_PROBED
        for index in range(0, length, max(1, length // num_probed)):
            try:
                media = self.sample(index).media
            except MediaError as error:
                unusable.append(str(error))
                continue
            if not media:
                found.add(None)
            for item in media:
                if item.kind not in found and (text := unreadable(item.path)):
                    absent.setdefault(item.kind, {})[item.path] = text
                else:
                    found.add(item.kind)
            if found and self.kinds is not None:
                return []
        if not found and not absent and unusable:
            return [
                f"datasets.{self.name}.annotations: none of {len(unusable)} rows looked at can be "
                f"used, e.g. {unusable[0]}"
            ]
        return list(self._absent_problems(absent, found=found))

    def _absent_problems(
        self, absent: Mapping[MediaKind, Mapping[str, str]], *, found: Collection[MediaKind | None]
    ) -> Iterator[str]:
        """Say of which folders nothing was found; of a few files among others that is chance."""
        by_folder: dict[tuple[str, str], dict[str, str]] = {}
        for kind, paths in absent.items():
            if kind not in found and (not found or len(paths) >= FEW_FILES):
                by_folder.setdefault(self.media_folder(kind), {}).update(paths)
        for (key, folder), why_not in by_folder.items():
            yield (
                f"datasets.{self.name}.{key}: {folder}: none of {len(why_not)} files looked for "
                f"can be read: {next(iter(why_not.values()))} (looked for "
                f"{', '.join(list(why_not)[:NUM_NAMED])})"
            )


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
