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


def test_what_is_frozen_inside_a_part_that_learns_stays_in_eval():
    part = nn.ModuleDict(
        {
            "frozen": nn.Sequential(nn.Linear(2, 2), nn.Dropout()),
            "learning": nn.Sequential(nn.Linear(2, 2), nn.Dropout()),
            "dropout": nn.Sequential(nn.Dropout()),
        }
    )
    set_trainable(part, ["learning.*"], where="model.x")
    set_mode(part, True)
    in_training = {name for name, module in part.named_modules() if module.training}
    assert in_training == {"", "learning", "learning.0", "learning.1", "dropout", "dropout.0"}
    set_mode(part, False)
    assert not any(module.training for module in part.modules())


def test_what_stands_around_adapters_stays_in_eval():
    adapted = {"base": nn.Linear(2, 2), "adapter": nn.Linear(2, 2), "own_dropout": nn.Dropout()}
    part = nn.ModuleDict({"layer": nn.ModuleDict(adapted), "dropout": nn.Dropout()})
    set_trainable(part, ["layer.adapter.*"], where="model.x")
    set_mode(part, True)
    in_training = {name for name, module in part.named_modules() if module.training}
    assert in_training == {"layer", "layer.adapter", "layer.own_dropout"}


class Stubborn(nn.Dropout):
    """Keeps its own mode, as published frozen encoders do."""

    def train(self, mode=True):
        return super().train(False)


def test_a_module_with_a_rule_of_its_own_keeps_it(part):
    part["stubborn"] = Stubborn()
    set_mode(part, True)
    assert part["first"].training
    assert not part["stubborn"].training


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_to_learn_in_half_precision_is_refused_with_a_way_out(part, dtype):
    part["second"].to(getattr(torch, dtype))
    set_trainable(part, ["first.*"], where="model.x")
    with pytest.raises(ConfigError, match=f"model.x.trainable: 2 parameters .* {dtype}") as caught:
        set_trainable(part, True, where="model.x")
    assert "set model.x.dtype: float32" in str(caught.value)


def test_the_row_of_a_part_counts_its_parameters(part):
    set_trainable(part, ["second.*"], where="model.x")
    part["second"].to(torch.bfloat16)
    row = part_row(part, name="x", type_name="two_layers", weights="fresh")
    # 2 x 3 + 3 and 3 x 1 + 1.
    assert (row.num_params, row.num_trainable) == (9 + 4, 4)
    assert row.dtype == "bfloat16+float32"


def test_a_part_without_parameters_has_no_dtype():
    assert part_row(nn.Identity(), name="x", type_name="none", weights="-").dtype == "-"
