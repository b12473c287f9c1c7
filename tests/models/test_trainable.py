"""What learns, what stays as it is, and how both are shown."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from video_llama.common.errors import ConfigError
from video_llama.models.trainable import learns, part_row, set_mode, set_trainable


@pytest.fixture
def part():
    return nn.ModuleDict({"first": nn.Linear(2, 3), "second": nn.Linear(3, 1)})


def learning(part):
    return [name for name, parameter in part.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (True, ["first.weight", "first.bias", "second.weight", "second.bias"]),
        (False, []),
        (["*.bias"], ["first.bias", "second.bias"]),
        (["second.*", "first.bias"], ["first.bias", "second.weight", "second.bias"]),
    ],
)
def test_a_rule_says_which_parameters_learn(part, rule, names):
    set_trainable(part, rule, where="model.x")
    assert learning(part) == names
    assert learns(part) == bool(names)


def test_a_later_rule_replaces_an_earlier_one(part):
    set_trainable(part, ["*.bias"], where="model.x")
    set_trainable(part, ["first.*"], where="model.x")
    assert learning(part) == ["first.weight", "first.bias"]


def test_every_pattern_that_matches_nothing_is_named_beside_what_there_is(part):
    with pytest.raises(ConfigError) as caught:
        set_trainable(part, ["*.bias", "thrid.*", "Second.*"], where="model.x")
    text = str(caught.value)
    assert "model.x.trainable: no parameter matches thrid.*, Second.*" in text
    assert "first.weight, first.bias, second.weight, second.bias" in text


@pytest.mark.parametrize(("rule", "mode"), [(True, True), (False, False), (["*.bias"], True)])
def test_a_part_is_in_training_mode_only_if_it_learns(part, rule, mode):
    set_trainable(part, rule, where="model.x")
    set_mode(part, True)
    assert part["first"].training == mode
    set_mode(part, False)
    assert not part["first"].training


def test_the_row_of_a_part_counts_its_parameters(part):
    set_trainable(part, ["second.*"], where="model.x")
    part["second"].to(torch.bfloat16)
    row = part_row(part, name="x", type_name="two_layers", weights="fresh")
    # 2 x 3 + 3 and 3 x 1 + 1.
    assert (row.num_params, row.num_trainable) == (9 + 4, 4)
    assert row.dtype == "bfloat16+float32"


def test_a_part_without_parameters_has_no_dtype():
    assert part_row(nn.Identity(), name="x", type_name="none", weights="-").dtype == "-"
