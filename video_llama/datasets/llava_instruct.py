r"""Conversations about COCO pictures, in the layout of LLaVA's llava_instruct_150k.json.

    [{"id": "000000033471", "image": "000000033471.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat is on the bus?"},
        {"from": "gpt", "value": "..."}]}]

The picture goes in front of the first question wherever `<image>` stands, so that training looks
like chat, where a file is uploaded before it is asked about. Liu et al., "Visual Instruction
Tuning", 2023.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from video_llama.common.registry import registry
from video_llama.common.types import MediaItem, MediaKind, Sample
from video_llama.datasets.annotations import AnnotationReader
from video_llama.datasets.base import require_text
from video_llama.datasets.records import Mistake, Record, lacking, read_rows
from video_llama.datasets.turns import dialogue

PLACEHOLDER = "<image>"
COCO_PREFIX = "COCO_train2014_"
"""COCO's 2014 archive has it in the file names, the annotations and COCO 2017 do not."""

SPEAKERS = ("human", "gpt")


@registry.register_dataset("llava_instruct")
class LlavaInstruct(AnnotationReader):
    """Conversations about a picture."""

    @dataclass(frozen=True)
    class Config(AnnotationReader.Config):
        """Keys of a llava_instruct entry."""

    config: Config
    where_from = "huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K; pictures: cocodataset.org"

    @property
    def kinds(self) -> tuple[MediaKind, ...]:
        """One picture a sample."""
        return ("image",)

    def records(self) -> Iterator[Record | Mistake]:
        """Yield the conversations in file order."""
        for path in self.annotation_files():
            for row in read_rows(path):
                yield row if isinstance(row, Mistake) else _read_row(row)

    def build(self, record: Record, *, seed: int) -> Sample:
        """Turn a conversation into a sample, see `AnnotationReader.build`; nothing is random."""
        image = require_text(record.fields["image"], what="image", where=record.where)
        media = [MediaItem(kind="image", path=str(self._find(image)))]
        messages = dialogue(record.fields["turns"], media=media, where=record.where)
        return Sample(key=record.key, messages=messages)

    def _find(self, image: str) -> Path:
        """Return the picture's path, with COCO's prefix if such a file is there."""
        plain = Path(self.config.media) / image
        prefixed = plain.with_name(COCO_PREFIX + plain.name)
        # Unlike Path's, it says no to a name that no file can have.
        return prefixed if os.path.exists(prefixed) else plain  # noqa: PTH110


def _read_row(row: Record) -> Record | Mistake:
    """Check one conversation and pair its turns."""
    problem = lacking(row.fields, ("image", "conversations"))
    if problem:
        return Mistake(row.where, problem)
    turns = row.fields["conversations"]
    problem = _check_turns(turns)
    if problem:
        return Mistake(row.where, f"'conversations': {problem}")
    pairs = [
        {"q": _without_placeholder(question["value"]), "a": answer["value"]}
        for question, answer in zip(turns[::2], turns[1::2], strict=True)
    ]
    key = str(row.fields.get("id", row.fields["image"]))
    return replace(row, key=key, fields={"image": row.fields["image"], "turns": pairs})


def _check_turns(turns: Any) -> str | None:
    """Say what is wrong with a list of turns."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return "expected a list of objects with from and value"
    for number, turn in enumerate(turns):
        problem = lacking(turn, ("from", "value"))
        if problem:
            return f"turn {number + 1}: {problem}"
        expected = SPEAKERS[number % 2]
        if turn["from"] != expected:
            return f"turn {number + 1} is from {turn['from']!r}, expected {expected!r}"
    if len(turns) % 2:
        return f"{len(turns)} turns, the last question has no answer"
    return None


def _without_placeholder(text: object) -> object:
    """Take `<image>` out of a question; anything but a text is left for the check of texts."""
    return text.replace(PLACEHOLDER, "").strip() if isinstance(text, str) else text
