"""Captioned pictures in the layout of MiniGPT-4's cc_sbu_align, which LLaVA-CC3M shares here.

    {"annotations": [{"image_id": "2", "caption": "The image shows a man fishing ..."}, ...]}

in `filter_cap.json`; pictures lie at `image/{image_id}.jpg`. The captions are used as they stand,
as published. Zhu et al., "MiniGPT-4", 2023; Liu et al., "Visual Instruction Tuning", 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from video_llama.common.errors import MediaError
from video_llama.common.registry import registry
from video_llama.common.types import MediaItem, MediaKind
from video_llama.datasets.captions import CaptionReader
from video_llama.datasets.records import Mistake, Record, lacking, read_rows


@registry.register_dataset("cc_sbu_align")
class CcSbuAlign(CaptionReader):
    """Captioned pictures; `media` is the folder that holds `image/`, or that folder itself."""

    @dataclass(frozen=True)
    class Config(CaptionReader.Config):
        """Keys of a cc_sbu_align entry."""

        cleaning: Literal["blip", "none"] = "none"

    config: Config
    where_from = (
        "huggingface.co/datasets/liuhaotian/LLaVA-CC3M-Pretrain-595K; cc_sbu_align with MiniGPT-4"
        " (github.com/Vision-CAIR/MiniGPT-4)"
    )

    @property
    def kinds(self) -> tuple[MediaKind, ...]:
        """One picture a sample."""
        return ("image",)

    def records(self) -> Iterator[Record | Mistake]:
        """Yield the annotations in file order."""
        for path in self.annotation_files():
            for row in read_rows(path, under="annotations"):
                yield row if isinstance(row, Mistake) else _read_row(row)

    def media(self, record: Record) -> list[MediaItem]:
        """Name a row's picture."""
        if not record.fields["image_id"]:
            raise MediaError("image_id is empty", path=record.where)
        folder = Path(self.config.media)
        if folder.name != "image":
            folder /= "image"
        return [MediaItem(kind="image", path=str(folder / f"{record.fields['image_id']}.jpg"))]


def _read_row(row: Record) -> Record | Mistake:
    """Check one annotation."""
    problem = lacking(row.fields, ("image_id", "caption"))
    if problem:
        return Mistake(row.where, problem)
    image_id = "" if row.fields["image_id"] is None else str(row.fields["image_id"])
    fields = {"image_id": image_id, "caption": row.fields["caption"]}
    return replace(row, key=image_id, fields=fields)
