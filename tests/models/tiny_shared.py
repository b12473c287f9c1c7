"""A tiny model for pictures and clips whose branches share their last stage, and batches for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from models.tiny_model import TINY, frames, raw_input

from video_llama.common.schema import ModelConfig
from video_llama.common.sections import parse_model
from video_llama.common.types import IGNORE_INDEX, Batch, BatchItem
from video_llama.models.video_llm import VideoLLM

Change = Callable[[dict[str, Any]], None]


def config_of(change: Change | None = None) -> ModelConfig:
    """Return the config after a change to its containers."""
    tree = copy.deepcopy(TINY)
    video = tree["branches"].pop("video")
    del tree["branches"]["audio"], video["stages"]["joint"], video["stages"]["norm"]
    image = copy.deepcopy(video)
    tree["branches"] = {
        # The borrower stands first, so that the order in the file cannot matter.
        "video": {**video, "media": ["video"]},
        "image": {**image, "media": ["image"]},
    }
    video["stages"]["projection"] = {"share": "image.projection"}
    if change:
        change(tree)
    problems: list[str] = []
    config = parse_model(tree, preset_keys=set(), problems=problems)
    assert config is not None, problems
    return config


def build(change: Change | None = None) -> VideoLLM:
    """Build the model after a change to its config."""
    torch.manual_seed(0)
    return VideoLLM(config_of(change))


def batch_of(*, num_images: int, num_clips: int) -> Batch:
    """Rows of `<s> item text`, pictures first; a row of text if there is neither."""
    kinds = ["image"] * num_images + ["video"] * num_clips
    items, rows, slots = [], [], []
    for sample, kind in enumerate(kinds):
        num_slots = 5 * (1 if kind == "image" else 3)
        row = sample if kind == "image" else sample - num_images
        items.append(BatchItem(kind, row, num_slots, sample))
        rows.append([1, *[0] * num_slots, 5 + sample, 6, 7])
        slots.append([0, *[sample + 1] * num_slots, 0, 0, 0])
    if not kinds:
        rows, slots = [[1, 5, 6, 7]], [[0] * 4]
    length = max(map(len, rows))
    ids, places = (
        torch.tensor([row + [0] * (length - len(row)) for row in values])
        for values in (rows, slots)
    )
    mask = torch.tensor([[i < len(row) for i in range(length)] for row in rows])
    return Batch(
        input_ids=ids,
        attention_mask=mask,
        labels=torch.where(mask & (ids > 1), ids, IGNORE_INDEX),
        slots=places.int(),
        items=items,
        media={
            "image": raw_input(frames(num_images)[:, :1]),
            "video": raw_input(frames(num_clips)),
        },
        keys=[f"s{i}" for i in range(len(rows))],
    )
