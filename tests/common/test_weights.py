from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.weights import (
    Excuse,
    KeyMap,
    check_weights,
    export_weights,
    load_weights,
)

PREFIXED = KeyMap(renames=(("file.**", "**"),))


def published(module: nn.Module) -> dict[str, torch.Tensor]:
    """Give random values under published names."""
    return {
        f"file.{name}": torch.randn_like(tensor) for name, tensor in module.state_dict().items()
    }


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5))
def test_every_tensor_arrives_and_goes_out_again(widths):
    module = nn.Sequential(*[nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)])
    state = published(module)
    report = load_weights(module, state, key_map=PREFIXED, source="x.pth")
    assert report.matched == len(state)
    exported = export_weights(module, key_map=PREFIXED)
    assert sorted(exported) == sorted(state)
    assert all(torch.equal(exported[name], state[name]) for name in state)


def test_values_are_cast_to_the_modules_dtype():
    module = nn.Linear(2, 2).to(torch.bfloat16)
    state = published(nn.Linear(2, 2))
    load_weights(module, state, key_map=PREFIXED, source="x.pth")
    assert module.weight.dtype is torch.bfloat16
    assert torch.equal(module.weight, state["file.weight"].to(torch.bfloat16))


def test_loading_is_in_place():
    module = nn.Linear(2, 2)
    weight = module.weight
    load_weights(module, published(module), key_map=PREFIXED, source="x.pth")
    assert module.weight is weight


def test_a_module_on_meta_is_materialised_with_its_own_dtype_and_flags():
    module = nn.Linear(2, 3, device="meta", dtype=torch.bfloat16)
    module.weight.requires_grad_(False)
    state = published(nn.Linear(2, 3))
    load_weights(module, state, key_map=PREFIXED, source="x.pth")
    assert module.weight.device.type == "cpu"
    assert module.weight.dtype is torch.bfloat16
    assert (module.weight.requires_grad, module.bias.requires_grad) == (False, True)
    assert torch.equal(module.weight, state["file.weight"].to(torch.bfloat16))


def test_tied_weights_on_meta_stay_tied_and_need_one_name_only():
    module = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)}).to(
        "meta"
    )
    module["b"].weight = module["a"].weight
    value = torch.randn(2, 2)
    load_weights(module, {"a.weight": value}, key_map=KeyMap(), source="x.pth")
    assert module["a"].weight is module["b"].weight
    assert torch.equal(module["b"].weight, value)


def test_both_sides_of_a_mismatch_are_shown_and_nothing_is_written():
    module = nn.Linear(2, 2)
    before = module.weight.clone()
    state = {"file.weight": torch.zeros(2, 2), "file.wieght": torch.zeros(2, 2)}
    with pytest.raises(CheckpointMismatch) as caught:
        load_weights(module, state, key_map=PREFIXED, source="x.pth")
    text = str(caught.value)
    assert text.startswith("x.pth: does not fit the model (1 of 2 tensors match)")
    assert "1 in the model, not in the file\n    - bias" in text
    assert "1 in the file, not in the model\n    + file.wieght" in text
    assert torch.equal(module.weight, before)


def test_long_lists_are_cut_and_counted():
    module = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(20)])
    with pytest.raises(CheckpointMismatch, match=r"20 in the model[\s\S]*\.\.\. and 14 more"):
        load_weights(module, {}, key_map=KeyMap(), source="x.pth")


@pytest.mark.parametrize(
    ("file_width", "model_width", "words"),
    [
        (4096, 5120, "a file for a 7B decoder .4096 wide. with a 13B one .5120 wide."),
        (5120, 4096, "a file for a 13B decoder .5120 wide. with a 7B one .4096 wide."),
    ],
)
def test_the_wrong_size_of_decoder_is_guessed(file_width, model_width, words):
    module = nn.Linear(8, model_width, device="meta")
    state = {"weight": torch.zeros(file_width, 8), "bias": torch.zeros(file_width)}
    with pytest.raises(CheckpointMismatch, match=words):
        load_weights(module, state, key_map=KeyMap(), source="x.pth")


def test_another_networks_file_is_said_to_be_one():
    with pytest.raises(CheckpointMismatch, match="a file of another network"):
        load_weights(nn.Linear(1, 1), {"x": torch.zeros(1)}, key_map=KeyMap(), source="x.pth")


def test_two_keys_for_one_parameter_are_a_mismatch():
    key_map = KeyMap(renames=(("old", "weight"), ("new", "weight"), ("bias", "bias")))
    state = {"old": torch.zeros(1, 1), "new": torch.ones(1, 1), "bias": torch.zeros(1)}
    with pytest.raises(CheckpointMismatch, match="not in the model"):
        load_weights(nn.Linear(1, 1), state, key_map=key_map, source="x.pth")


def test_listed_reasons_excuse_and_are_counted():
    key_map = KeyMap(
        drops=(Excuse("head.*", "no head here"),), absent=(Excuse("bias", "starts fresh"),)
    )
    state = {"weight": torch.zeros(2, 2), "head.weight": torch.ones(1), "head.bias": torch.ones(1)}
    report = load_weights(nn.Linear(2, 2), state, key_map=key_map, source="x.pth")
    assert report.matched == 1
    assert report.dropped == {"no head here": 2}
    assert report.absent == {"starts fresh": 1}
    assert "2 keys dropped (no head here)" in str(report)


def test_only_limits_what_the_file_must_fill():
    module = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
    before = module["b"].weight.clone()
    state = {f"a.{name}": tensor + 1 for name, tensor in module["a"].state_dict().items()}
    load_weights(module, state, key_map=KeyMap(), source="x.pth", only=("a.",))
    assert torch.equal(module["a"].weight, state["a.weight"])
    assert torch.equal(module["b"].weight, before)


def test_an_adapter_may_cure_a_difference_in_shape():
    key_map = KeyMap(adapters={"weight": lambda tensor, shape: tensor.expand(shape)})
    module = nn.Linear(3, 2, bias=False)
    load_weights(module, {"weight": torch.ones(1, 3)}, key_map=key_map, source="x.pth")
    assert torch.equal(module.weight, torch.ones(2, 3))


def test_an_adapter_that_cannot_cure_it_leaves_the_mismatch():
    key_map = KeyMap(adapters={"weight": lambda tensor, shape: tensor})
    with pytest.raises(CheckpointMismatch, match=r"weight \[5, 3\], the model has \[2, 3\]"):
        load_weights(
            nn.Linear(3, 2, bias=False), {"weight": torch.ones(5, 3)}, key_map=key_map, source="x"
        )


def test_a_name_without_published_counterpart_cannot_be_exported():
    with pytest.raises(CheckpointMismatch, match="'bias' has no name"):
        export_weights(nn.Linear(1, 1), key_map=KeyMap(renames=(("w", "weight"),)))


class Watched(dict):
    """Gives copies and counts how many values of them were alive at the same time."""

    alive = most = 0

    def __getitem__(self, name):
        copy = super().__getitem__(name).clone()
        self.alive += copy.numel()
        self.most = max(self.most, self.alive)
        weakref.finalize(copy, self._forget, copy.numel())
        return copy

    def _forget(self, count):
        self.alive -= count


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_two_tensors_of_a_file_are_never_held_together(device):
    module = nn.Sequential(*[nn.Linear(8, 8, device=device) for _ in range(5)])
    state = Watched({name: torch.zeros(tensor.shape) for name, tensor in module.named_parameters()})
    load_weights(module, state, key_map=KeyMap(), source="x.pth")
    assert state.most == 8 * 8


def test_a_check_writes_nothing_and_reports_what_loading_would():
    module = nn.Linear(2, 2)
    before = module.weight.clone()
    state = published(nn.Linear(2, 2))
    checked = check_weights(module, state, key_map=PREFIXED, source="x.pth")
    assert torch.equal(module.weight, before)
    assert checked == load_weights(module, state, key_map=PREFIXED, source="x.pth")


def test_a_check_needs_no_values_on_either_side():
    module = nn.Linear(2, 3, device="meta")
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert check_weights(module, state, key_map=KeyMap(), source="x.pth").matched == 2
    with pytest.raises(CheckpointMismatch, match=r"~ weight \[2, 2\], the model has \[3, 2\]"):
        check_weights(
            module,
            {**state, "weight": torch.empty(2, 2, device="meta")},
            key_map=KeyMap(),
            source="x.pth",
        )
