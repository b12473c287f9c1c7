"""The shipped toy towers of Video-LLaVA, and how such towers are made."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
import torch
from torch import Tensor

from video_llama.common.weights import load_weights, read_state
from video_llama.foundations.clips import PATCH_PX, SIDE, Clips, make_clips
from video_llama.foundations.fit import Schedule, Trained
from video_llama.foundations.towers import (
    IMAGE_FILE,
    NUM_FRAMES,
    SIZES,
    VIDEO_FILE,
    TowerRecipe,
    encode,
    train_towers,
    with_temporal_attention,
)
from video_llama.models.encoders.clip_vit import ClipVit
from video_llama.models.encoders.languagebind import LanguageBind

SHIPPED = Path(str(importlib.resources.files("video_llama") / "foundations" / "toy"))
ONCE = Schedule(num_steps=2, batch_size=2, lr=1e-3)
TINY = TowerRecipe(3, 2, pictures=ONCE, clips=ONCE)


@pytest.fixture(scope="module")
def picture_tower() -> ClipVit:
    tower = ClipVit(ClipVit.Config(**SIZES, drop_class_token=False))
    state = read_state(SHIPPED / IMAGE_FILE)
    load_weights(tower, state, key_map=tower.key_map(), source=IMAGE_FILE)
    return tower.eval()


@pytest.fixture(scope="module")
def video_tower() -> LanguageBind:
    tower = LanguageBind(LanguageBind.Config(**SIZES, num_frames=NUM_FRAMES))
    state = read_state(SHIPPED / VIDEO_FILE)
    load_weights(tower, state, key_map=tower.key_map(), source=VIDEO_FILE)
    return tower.eval()


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips(160, seed=77, split="valid")


@torch.no_grad()
def tokens_of(tower: ClipVit | LanguageBind, clips: Clips) -> Tensor:
    return torch.cat([encode(tower, pixels) for pixels in clips.pixels.split(20)])


def told_from(known: Tensor, *, wanted: Tensor) -> Tensor:
    """Fit a ridge regression on the first half of the rows and predict those of the second."""
    inputs = torch.cat([known, torch.ones(len(known), 1)], dim=1).double()
    half = len(known) // 2
    gram = inputs[:half].T @ inputs[:half] + 1e-2 * torch.eye(inputs.shape[1])
    weights = torch.linalg.solve(gram, inputs[:half].T @ wanted[:half].double())
    return inputs[half:] @ weights


def share_of_sets(tower: ClipVit, clips: Clips) -> float:
    """Share of right answers to "is there something of this colour?", from the class token."""
    there = clips.presence.any(dim=3).flatten(0, 1)
    told = told_from(tokens_of(tower, clips)[:, :, 0].flatten(0, 1), wanted=there) > 0.5
    return (told == there[len(there) // 2 :]).double().mean().item()


def share_of_absent(tower: ClipVit | LanguageBind, clips: Clips) -> float:
    """Score how well a class token ranks, among colours not on its frame, those elsewhere in time.

    Returns:
        Chance that a colour of another frame of the clip scores higher than one of no frame.
    """
    here = clips.presence.any(dim=3).flatten(0, 1)
    ever = clips.presence.any(dim=3).any(dim=1, keepdim=True).expand(-1, NUM_FRAMES, -1)
    ever = ever.flatten(0, 1)
    told = told_from(tokens_of(tower, clips)[:, :, 0].flatten(0, 1), wanted=ever)
    half = len(here) // 2
    absent, elsewhere = ~here[half:], ever[half:]
    wanted, unwanted = told[absent & elsewhere], told[absent & ~elsewhere]
    return (wanted[:, None] > unwanted[None]).double().mean().item()


def test_the_files_have_the_published_names():
    names = set(read_state(SHIPPED / VIDEO_FILE))
    assert {
        "vision_model.embeddings.class_embedding",
        "vision_model.pre_layrnorm.weight",
        "vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "vision_model.encoder.layers.0.temporal_embedding",
        "vision_model.encoder.layers.0.temporal_attn.out_proj.bias",
        "vision_model.encoder.layers.0.temporal_layer_norm1.weight",
    } <= names


def test_what_is_on_a_frame_stands_linearly_in_its_class_token(
    picture_tower: ClipVit, clips: Clips
):
    assert share_of_sets(picture_tower, clips) > 0.95


def test_only_the_video_tower_tells_on_a_frame_what_is_on_others(
    picture_tower: ClipVit, video_tower: LanguageBind, clips: Clips
):
    assert share_of_absent(video_tower, clips) > 0.9
    assert share_of_absent(picture_tower, clips) < 0.7


def test_a_video_tower_starts_from_the_picture_tower(picture_tower: ClipVit):
    started = with_temporal_attention(picture_tower).state_dict()
    for name, tensor in picture_tower.state_dict().items():
        assert torch.equal(started[name], tensor), name


@pytest.fixture(scope="module")
def hardly_trained() -> Trained:
    torch.set_num_threads(1)
    return train_towers(seed=5, recipe=TINY)


def test_equal_seeds_give_equal_towers(hardly_trained):
    again = train_towers(seed=5, recipe=TINY).files
    for file, tensors in hardly_trained.files.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, again[file][name]), name


def test_gates_are_missed_by_towers_that_learned_nothing(hardly_trained):
    assert not all(gate.is_passed for gate in hardly_trained.gates)


def test_a_thing_lies_on_its_patch(clips: Clips):
    offset = clips.offset[..., :2][clips.thing >= 0]
    inside = (offset.abs() <= 0.5).all(dim=1)
    # Only where the middle of a thing has left the picture it may lie beside the nearest patch.
    assert inside.double().mean() > 0.99


def test_patch_and_frame_agree_on_where_a_thing_is(clips: Clips):
    half = SIDE * PATCH_PX / 2
    for clip, step, patch in (clips.thing >= 0).nonzero()[:50].tolist():
        colour = int(clips.thing[clip, step, patch]) // 4
        corner = torch.tensor([patch % SIDE + 0.5, patch // SIDE + 0.5]) * PATCH_PX
        of_patch = corner + clips.offset[clip, step, patch, :2] * PATCH_PX
        of_frame = clips.place[clip, step, colour, :2] * 32 + half
        torch.testing.assert_close(of_patch, of_frame)
