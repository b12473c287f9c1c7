"""The published files, at tiny size, through the tables of `released.video_llama`."""

from __future__ import annotations

import hashlib
import json

import pytest
from tiny_released import ROLES, tree, typed

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.weights import load_weights, read_state
from video_llama.models.loading import build_model
from video_llama.models.released.video_llama import published_files
from video_llama.models.video_llm import VideoLLM


def digest(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()[:16]


def name_of_whole_model(ours, inverses):
    """The name a tensor has in the state dict of the published whole model."""
    if ours.startswith("decoder."):
        return ours.replace("decoder.model.", "llama_model.", 1)
    for prefix, inverse in inverses:
        published = inverse.translate(ours)
        if published is not None:
            return prefix + published
    raise AssertionError(ours)


@pytest.mark.parametrize("trunk", ["audio", "vision"])
def test_all_files_together_give_the_published_state_bit_for_bit(trunk, goldens):
    config = typed(tree(trunk=trunk))
    model = build_model(config).model
    tables = published_files(config)
    prefixes = {
        "vit_model": "visual_encoder.",
        "imagebind_ckpt_path": "audio_encoder.",
        "q_former_model": "",
        "ckpt": "",
    }
    inverses = [(prefix, tables[role].key_map.invert()) for role, prefix in prefixes.items()]
    expected = json.loads((goldens / "state_full.json").read_text())
    resized = "branches.audio.encoder.positions" if trunk == "vision" else None
    compared = 0
    for ours, tensor in model.state_dict().items():
        if ours == resized:
            continue
        assert digest(tensor) == expected[name_of_whole_model(ours, inverses)], ours
        compared += 1
    assert compared == len(model.state_dict()) - (resized is not None)


@pytest.mark.parametrize("branch", ["video", "audio"])
def test_one_branch_alone_needs_only_its_own_files(branch, goldens):
    config = typed(tree(branches=(branch,)))
    build_model(config)
    other = "imagebind_ckpt_path" if branch == "video" else "vit_model"
    assert other not in published_files(config)


@pytest.mark.parametrize(
    ("file", "filled"),
    [
        ("vl_branch.pth", ["video_qformer", "projection"]),
        ("al_branch.pth", ["audio_qformer", "projection"]),
    ],
)
def test_a_trained_file_fills_its_own_branch_only(file, filled, goldens):
    config = typed(tree())
    branch = "video" if file.startswith("vl") else "audio"
    table = published_files(config)["ckpt"]
    parts = table.parts_in(read_state(goldens / file))
    assert parts == tuple(f"branches.{branch}.stages.{name}." for name in filled)


def test_a_trained_file_of_a_branch_that_is_not_built_is_dropped_with_that_reason(goldens):
    config = typed(tree(branches=("video",)))
    table = published_files(config)["ckpt"]
    state = {**read_state(goldens / "vl_branch.pth"), **read_state(goldens / "al_branch.pth")}
    report = load_weights(
        VideoLLM(config),
        state,
        key_map=table.key_map,
        source="both.pth",
        only=table.parts_in(state),
    )
    assert report.dropped["the model has no branch 'audio'"] == sum(
        name.startswith("audio_") and "audio_encoder" not in name and "position_ids" not in name
        for name in state
    )


def test_a_file_that_holds_half_a_part_is_refused(goldens):
    config = typed(tree())
    table = published_files(config)["ckpt"]
    state = dict(read_state(goldens / "vl_branch.pth"))
    del state["video_query_tokens"]
    with pytest.raises(CheckpointMismatch, match=r"video_qformer\.queries"):
        load_weights(
            VideoLLM(config),
            state,
            key_map=table.key_map,
            source="half.pth",
            only=table.parts_in(state),
        )


@pytest.mark.parametrize(
    ("role", "reason", "count"),
    [
        ("q_former_model", "BLIP-2's map to T5", 2),
        ("vit_model", "final norm and head, not used by BLIP-2", 4),
    ],
)
def test_what_is_not_used_is_dropped_by_a_named_reason(role, reason, count, goldens):
    config = typed(tree())
    table = published_files(config)[role]
    path = goldens / ROLES[role]
    report = load_weights(
        VideoLLM(config),
        read_state(path),
        key_map=table.key_map,
        source=str(path),
        only=table.parts,
    )
    assert report.dropped[reason] == count
