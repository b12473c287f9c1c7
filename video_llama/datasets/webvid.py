"""WebVid: captions of stock footage, in tables with columns videoid, name and page_dir.

    videoid,name,page_dir
    21179416,Aerial shot of a winter forest,006001_006050

Clips lie at `{media}/{page_dir}/{videoid}.mp4`. Other columns are ignored. Bain, Nagrani, Varol
and Zisserman, "Frozen in Time", 2021.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.registry import registry
from video_llama.common.types import MediaItem
from video_llama.datasets.base import require_text
from video_llama.datasets.captions import CaptionReader
from video_llama.datasets.clips import StreamReader
from video_llama.datasets.records import Mistake, Record, lacking

COLUMNS = ("videoid", "name", "page_dir")


@registry.register_dataset("webvid")
class WebVid(StreamReader, CaptionReader):
    """Captioned clips from one table, or from every csv and tsv file of a folder."""

    @dataclass(frozen=True)
    class Config(StreamReader.Config, CaptionReader.Config):
        """Keys of a webvid entry."""

    config: Config
    suffixes = (".csv", ".tsv")
    where_from = "github.com/m-bain/webvid (withdrawn; any table of this layout will do)"

    def records(self) -> Iterator[Record | Mistake]:
        """Yield the rows of all tables, in the order of the file names."""
        for path in self.annotation_files():
            yield from _read_table(path)

    def media(self, record: Record) -> list[MediaItem]:
        """Name a row's clip.

        Raises:
            MediaError: its folder or its id is empty.
        """
        folder, video_id = (
            require_text(record.fields[column], what=column, where=record.where)
            for column in ("page_dir", "videoid")
        )
        return self.clip(f"{folder}/{video_id}.mp4")


def _read_table(path: Path) -> Iterator[Record | Mistake]:
    """Yield the rows of one table."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            problem = lacking(dict.fromkeys(reader.fieldnames or ()), COLUMNS)
            if problem:
                reason = problem.replace("no ", "no column ", 1)
                yield Mistake(f"{path}:1", reason, extent="file")
                return
            for row in reader:
                yield _read_row(row, where=f"{path}:{reader.line_num}")
        except csv.Error as error:
            yield Mistake(f"{path}:{reader.line_num}", f"not a table: {error}", extent="file")
        except UnicodeDecodeError as error:
            reason = f"not UTF-8: {error.reason} at byte {error.start}"
            yield Mistake(str(path), reason, extent="file")


def _read_row(row: dict[str | None, str | list[str] | None], *, where: str) -> Record | Mistake:
    """Check the number of cells, which a stray comma in a caption changes."""
    if None in row:
        surplus = row[None] or []
        return Mistake(
            where,
            f"{len(row) - 1 + len(surplus)} cells, the header has {len(row) - 1}; a caption with "
            "a comma must stand in quotes",
        )
    fields = {"caption": row["name"], "videoid": row["videoid"], "page_dir": row["page_dir"]}
    return Record(key=f"{row['page_dir']}/{row['videoid']}", fields=fields, where=where)
