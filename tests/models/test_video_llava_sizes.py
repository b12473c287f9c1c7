"""Video-LLaVA at full size, without memory: every number follows from the published sizes."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from rich.console import Console

from video_llama.apps.plan_tables import show_parts
from video_llama.common.config import load_preset
from video_llama.models.video_llm import VideoLLM
from video_llama.processors.video import FRAME_POLICIES

WIDTH, FFN, LAYERS, PATCHES = 1024, 4096, 24, 16 * 16
"""Of CLIP ViT-L/14 at 224 px (Radford et al. 2021, table 20)."""

HIDDEN, LLAMA_FFN, LLAMA_LAYERS = 4096, 11008, 32
"""Of LLaMA-7B (Touvron et al. 2023)."""


def linear(rows, columns):
    return rows * columns + rows


SPATIAL = 4 * linear(WIDTH, WIDTH) + linear(FFN, WIDTH) + linear(WIDTH, FFN) + 2 * 2 * WIDTH
TEMPORAL = 4 * linear(WIDTH, WIDTH) + 2 * WIDTH + 8 * WIDTH
EMBEDDINGS = WIDTH * 3 * 14 * 14 + WIDTH + (1 + PATCHES) * WIDTH
NORM = 2 * WIDTH
IMAGE_TOWER = EMBEDDINGS + NORM + LAYERS * SPATIAL + NORM
VIDEO_TOWER = IMAGE_TOWER + LAYERS * TEMPORAL
PROJECTOR = linear(HIDDEN, WIDTH) + linear(HIDDEN, HIDDEN)
LAST = SPATIAL + NORM
"""The layer behind the one whose output is used, and the norm behind it: neither is built."""


def decoder(vocab):
    layer = 4 * HIDDEN**2 + 3 * HIDDEN * LLAMA_FFN + 2 * HIDDEN
    return 2 * vocab * HIDDEN + LLAMA_LAYERS * layer + HIDDEN


@pytest.fixture(scope="module")
def models():
    with torch.device("meta"):
        return {
            name: VideoLLM(load_preset("video_llava", name))
            for name in ("vicuna7b", "vicuna7b_hf_compat")
        }


def test_the_sizes_are_those_that_were_published():
    millions = [round(n / 1e6, 1) for n in (IMAGE_TOWER, VIDEO_TOWER, decoder(32000))]
    assert millions == [303.2, 404.2, 6738.4]
    assert round(PROJECTOR / 1e6, 2) == 20.98
    whole = IMAGE_TOWER + VIDEO_TOWER + PROJECTOR + decoder(32000)
    port = 2 * IMAGE_TOWER + PROJECTOR + decoder(32064)
    assert [round(n / 1e9, 3) for n in (whole, port)] == [7.467, 7.366]


@pytest.mark.parametrize(
    ("name", "video", "vocab"),
    [
        ("vicuna7b", VIDEO_TOWER - LAST - TEMPORAL, 32000),
        ("vicuna7b_hf_compat", IMAGE_TOWER - LAST, 32064),
    ],
)
def test_every_part_has_its_published_size_but_for_what_is_not_used(models, name, video, vocab):
    sizes = {row.name: row.num_params for row in models[name].rows()}
    assert sizes == {
        "branches.image.encoder": IMAGE_TOWER - LAST,
        "branches.image.stages.projection": PROJECTOR,
        "branches.video.encoder": video,
        "decoder": decoder(vocab),
    }


@pytest.mark.parametrize("name", ["vicuna7b", "vicuna7b_hf_compat"])
def test_a_picture_is_256_tokens_and_a_clip_of_eight_frames_2056(models, name):
    specs = models[name].branch_specs()
    # 16 x 16 patches without a class token, and 8 times 16 x 16 with one.
    assert specs["image"].slots(1) == 256
    assert [specs["video"].slots(frames) for frames in (1, 8)] == [257, 2056]


def test_both_branches_share_one_projector(models):
    model = models["vicuna7b"]
    assert model.config.branches["video"].stages["projection"].share == "image.projection"
    assert not any(name.startswith("branches.video.stages") for name in model.state_dict())


def test_the_port_has_no_block_that_looks_across_time_and_another_activation(models):
    found = {
        name: [key for key in model.state_dict() if "temporal" in key]
        for name, model in models.items()
    }
    # Per layer: table of frames, four maps with biases, a norm.
    assert [len(found[name]) for name in models] == [23 * 11, 0]
    activations = [
        branch.encoder.config.activation
        for model in models.values()
        for branch in model.config.branches.values()
    ]
    assert activations == ["gelu", "gelu", "quick_gelu", "quick_gelu"]


def test_the_table_of_parts_shows_the_shared_projector_once(models):
    said = io.StringIO()
    show_parts(models["vicuna7b"], console=Console(file=said, width=200))
    rows = [line for line in said.getvalue().splitlines() if "projection" in line]
    assert len(rows) == 1
    assert f"{PROJECTOR:,}" in rows[0]
    built = IMAGE_TOWER + VIDEO_TOWER - 2 * LAST - TEMPORAL + PROJECTOR + decoder(32000)
    assert f"{built:,}" in said.getvalue()


def test_the_port_is_shown_the_frames_of_its_card(models):
    spec = models["vicuna7b_hf_compat"].branch_specs()["video"].spec
    choose = FRAME_POLICIES[spec.frame_policy].choose
    for num_total in range(spec.num_frames, 500):
        theirs = np.arange(0, num_total, num_total / 8).astype(int).tolist()
        assert choose(num_total, spec.num_frames, random.Random(0)) == theirs
