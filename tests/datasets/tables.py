"""WebVid tables written by tests, and a reader on them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from video_llama.datasets.webvid import WebVid

NUM_CLIPS = 6
BROKEN = 2
"""Index of the clip whose file is cut off."""


def write_table(path: Path, rows: Sequence[tuple[str, str, str]], *, delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["videoid", "name", "page_dir"])
        writer.writerows(rows)


def webvid(annotations: Path, media: Path, **keys) -> WebVid:
    config = WebVid.Config(annotations=str(annotations), media=str(media), **keys)
    return WebVid(config, name="clips")
