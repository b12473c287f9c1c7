"""Branches and decoder together, at tiny size with random weights, and a batch for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from video_llama.common.sections import parse_model
from video_llama.common.types import IGNORE_INDEX, Batch, BatchItem, BranchInput
from video_llama.models.video_llm import VideoLLM

VOCAB = 50
QFORMER = {"type": "qformer", "width": 16, "num_heads": 2, "ffn_width": 32, "dropout": 0.0}
TINY: dict[str, Any] = {
    "arch": "video_llama",
    "model_type": "tiny",
    "template": "vicuna_v0",
    "branches": {
        "video": {
            "media": ["video", "image"],
            "encoder": {
                "type": "eva_vit_g",
                "image_size": 16,
                "patch_size": 8,
                "width": 16,
                "depth": 1,
                "num_heads": 2,
                "num_frames": 3,
            },
            "stages": {
                "norm": {"type": "layer_norm"},
                "joint": {
                    **QFORMER,
                    "num_queries": 2,
                    "num_layers": 1,
                    "num_positions": 4,
                    "trainable": True,
                },
                "projection": {"type": "projection", "width": 24, "trainable": True},
            },
        },
        "audio": {
            "media": ["audio"],
            "encoder": {
                "type": "imagebind",
                "out_width": 8,
                "audio_width": 8,
                "audio_depth": 1,
                "audio_num_heads": 2,
                "num_mel_bins": 16,
                "num_mel_frames": 16,
                "num_clips": 2,
            },
            "stages": {
                "joint": {**QFORMER, "num_queries": 1, "num_layers": 1, "trainable": True},
                "projection": {"type": "projection", "width": 24, "trainable": True},
            },
        },
    },
    "decoder": {
        "type": "causal_lm",
        "architecture": {
            "model_type": "llama",
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": VOCAB,
            "max_position_embeddings": 32,
        },
    },
}


def build(change: Callable[[dict[str, Any]], None] | None = None) -> VideoLLM:
    """Build the model after a change to its config."""
    tree = copy.deepcopy(TINY)
    if change:
        change(tree)
    problems: list[str] = []
    config = parse_model(tree, preset_keys=set(), problems=problems)
    assert not problems
    torch.manual_seed(0)
    return VideoLLM(config)


def frames(num_rows: int, seed: int = 1) -> Tensor:
    """Make clips of three frames."""
    return torch.randn(num_rows, 3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def mels(num_rows: int) -> Tensor:
    """Make sounds of two pieces."""
    return torch.randn(num_rows, 2, 1, 16, 16, generator=torch.Generator().manual_seed(2))


def raw_input(raw: Tensor) -> BranchInput:
    """Make a branch's input of clips or sounds without padding."""
    return BranchInput(raw, torch.ones(raw.shape[:2], dtype=torch.bool), torch.arange(len(raw)))


def batch_of(
    num_videos: int = 2, *, with_audio: bool = True, text: tuple[int, ...] = (5, 6, 7, 8)
) -> Batch:
    """Rows of `<s> v v text...`; the first row also hears one sound, between clip and text."""
    rows, slots, items = [], [], []
    for row in range(num_videos):
        items.append(BatchItem("video", row, 2, row, feature_key=f"clip{row}"))
        ids, places = [1, 0, 0], [0, len(items), len(items)]
        if with_audio and row == 0:
            items.append(BatchItem("audio", 0, 1, row))
            ids, places = [*ids, 0], [*places, len(items)]
        rows.append([*ids, *(t + row for t in text)])
        slots.append([*places, *[0] * len(text)])
    length = max(map(len, rows))
    pad = [length - len(row) for row in rows]
    ids = torch.tensor([row + [0] * p for row, p in zip(rows, pad, strict=True)])
    mask = torch.tensor([[True] * len(r) + [False] * p for r, p in zip(rows, pad, strict=True)])
    labels = torch.where(mask & (ids > 1), ids, IGNORE_INDEX)
    return Batch(
        input_ids=ids,
        attention_mask=mask,
        labels=labels,
        slots=torch.tensor([s + [0] * p for s, p in zip(slots, pad, strict=True)]).int(),
        items=items,
        media={
            "video": raw_input(frames(num_videos)),
            "audio": raw_input(mels(1 if with_audio else 0)),
        },
        keys=[f"s{i}" for i in range(num_videos)],
    )
