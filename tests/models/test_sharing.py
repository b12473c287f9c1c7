"""A stage in two branches is one module: one row, one set of names, one set of gradients."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from models.tiny_model import frames, raw_input
from models.tiny_shared import batch_of, build
from safetensors.torch import load_file, save_file

from video_llama.common.errors import ConfigError
from video_llama.common.types import IGNORE_INDEX
from video_llama.models.loading import build_model, load_heads
from video_llama.models.sources import named_parts
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.optim import param_groups
from video_llama.runners.partitioned import frozen_heads

OWNED, BORROWED = "branches.image.stages.projection.", "branches.video.stages.projection."


def test_a_shared_stage_is_one_module_with_one_set_of_names():
    model = build()
    lent = [module for name, module, _ in model.branches["video"].parts() if name != "encoder"]
    assert lent == [model.branches["image"].stages["projection"]]
    names = list(model.state_dict())
    assert [name for name in names if "projection" in name] == [
        OWNED + "linear.weight",
        OWNED + "linear.bias",
    ]
    assert len({t.data_ptr() for t in model.state_dict().values()}) == len(names)


def test_a_shared_stage_has_one_row_in_the_table_of_parts_and_one_learning_rate():
    model = build()
    names = [row.name for row in model.rows() if "projection" in row.name]
    assert names == [OWNED[:-1]]
    assert [name for name, _ in named_parts(model.config) if "projection" in name] == names
    groups = param_groups(model, weight_decay=0.1, scales={names[0]: 2.0})
    learned = [name for group in groups for name in group["names"]]
    assert sorted(learned) == [OWNED + "linear.bias", OWNED + "linear.weight"]
    assert {group["lr_scale"] for group in groups} == {2.0}


def test_gradients_of_a_shared_stage_are_those_of_both_branches_together():
    model = build().train()
    weight = model.get_parameter(OWNED + "linear.weight")

    def gradient(**sizes):
        model.zero_grad()
        model(batch_of(**sizes)).loss_sum.backward()
        return weight.grad.clone()

    # Sample 1 alone would have other text, so both are compared with the other's targets removed.
    both = batch_of(num_images=1, num_clips=1)
    parts = []
    for row in (0, 1):
        one = copy.copy(both)
        one.labels = both.labels.clone()
        one.labels[1 - row] = IGNORE_INDEX
        model.zero_grad()
        model(one).loss_sum.backward()
        parts.append(weight.grad.clone())
    together = gradient(num_images=1, num_clips=1)
    assert all(part.abs().max() > 1e-4 for part in parts)
    torch.testing.assert_close(together, parts[0] + parts[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 1)])
def test_a_shared_stage_stays_in_the_graph_without_rows_in_one_branch_or_both(sizes):
    model = build().train()
    batch = batch_of(num_images=sizes[0], num_clips=sizes[1])
    assert len(batch.media["image"].raw) == sizes[0]
    model(batch).loss_sum.backward()
    assert model.get_parameter(OWNED + "linear.weight").grad is not None


def test_a_branch_whose_only_learning_part_is_another_branchs_counts_as_learning():
    assert build().branches["video"].learns
    frozen = build(lambda t: t["branches"]["image"]["stages"]["projection"].update(trainable=False))
    assert not frozen.branches["video"].learns


def test_a_frozen_shared_stage_is_before_the_cache_frontier_of_both_branches():
    def frozen(tree):
        tree["branches"]["image"]["stages"]["projection"]["trainable"] = False

    assert [b.frontier_shape.width for b in build().branches.values()] == [16, 16]
    model = build(frozen)
    assert [b.frontier_shape.width for b in model.branches.values()] == [24, 24]
    before = {name: b.fingerprint() for name, b in model.branches.items()}
    with torch.no_grad():
        model.get_parameter(OWNED + "linear.bias").add_(1)
    assert all(b.fingerprint() != before[name] for name, b in model.branches.items())


def test_tokens_of_another_width_than_the_owners_are_refused():
    def narrow(tree):
        tree["branches"]["video"]["encoder"]["width"] = 8

    said = r"video.stages.projection.share: tokens are 8 wide here and 16 at 'image.projection'"
    with pytest.raises(ConfigError, match=said):
        build(narrow)


def test_a_models_folder_holds_a_shared_stage_once_and_gives_the_model_back(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    names = list(load_file(tmp_path / "trainable.safetensors"))
    assert OWNED + "linear.weight" in names
    assert not any(name.startswith(BORROWED) for name in names)
    again = VideoLLM.from_pretrained(tmp_path)
    assert again.config.branches["video"].stages["projection"].share == "image.projection"
    assert again.state_dict().keys() == model.state_dict().keys()
    clip = raw_input(frames(1))
    before, after = (m.branches["video"](clip).features.tokens for m in (model.eval(), again))
    assert torch.equal(before, after)


def test_a_checkpoint_fills_a_shared_stage_in_both_branches(tmp_path):
    model = build()
    save_file(dict(model.state_dict()), tmp_path / "all.safetensors")
    torch.manual_seed(1)
    again = build_model(replace(model.config, ckpt=str(tmp_path / "all.safetensors")))
    assert again.fresh == []
    clip = raw_input(frames(1))
    torch.testing.assert_close(
        again.model.branches["video"](clip).features.tokens,
        model.branches["video"](clip).features.tokens,
        rtol=0, atol=0,
    )  # fmt: skip


def test_what_is_frozen_and_shared_is_loaded_for_both_heads(tmp_path):
    model = build()
    save_file(dict(model.state_dict()), tmp_path / "all.safetensors")

    def frozen(tree):
        tree["branches"]["image"]["stages"]["projection"]["trainable"] = False

    config = build(frozen).config
    heads = load_heads(replace(config, ckpt=str(tmp_path / "all.safetensors")))
    lent = {name: module for name, module, _ in heads["video"].parts()}
    assert lent["stages.projection"] is heads["image"].stages["projection"]
    clip = raw_input(frames(1))
    expected = model.eval().branches["video"](clip).features.tokens
    torch.testing.assert_close(heads["video"](clip).features.tokens, expected, atol=0, rtol=0)


def test_heads_without_weights_name_a_shared_stage_by_its_owner():
    def frozen(tree):
        tree["branches"]["image"]["stages"]["projection"]["trainable"] = False

    with pytest.raises(ConfigError) as caught:
        load_heads(build(frozen).config)
    names = [problem.partition(":")[0] for problem in caught.value.problems]
    assert names == [
        "model.branches.video.encoder",
        "model.branches.image.stages.projection",
        "model.branches.image.encoder",
    ]


def test_a_stage_that_is_in_the_frozen_head_of_one_branch_only_cannot_be_divided():
    def half(tree):
        tree["branches"]["image"]["stages"]["projection"]["trainable"] = False
        tree["branches"]["video"]["encoder"]["trainable"] = True

    with pytest.raises(ConfigError, match="with something that learns before it in one branch"):
        frozen_heads(build(half))
