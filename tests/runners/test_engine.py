"""Steps in float16: gradients that are scaled, overflow, and what is kept of it.

The run file refuses float16 on a CPU because it is slow there; these few numbers it can do.
"""

from __future__ import annotations

import pytest
import torch
from tiny_run import build, config_of
from torch import nn

from video_llama.common.dist import World
from video_llama.common.errors import VideoLlamaError
from video_llama.runners.checkpoint import load_optimizer_file
from video_llama.runners.engine import NUM_GOOD_STEPS, SCALE, TorchEngine
from video_llama.runners.metrics import read_lines
from video_llama.tasks.video_text_pretrain import VideoTextPretrain

FIRST_SCALE = 2.0**16
"""Torch's default; float16 ends at 65,504, just below."""


def engine_of(model: nn.Module, precision: str, lr: float = 0.1) -> TorchEngine:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    group = {"params": [p for _, p in named], "names": [name for name, _ in named]}
    optimizer = torch.optim.AdamW([group], lr=lr)
    device = torch.device("cpu")
    return TorchEngine(
        model, optimizer=optimizer, world=World(), device=device, precision=precision
    )


def linear() -> nn.Module:
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    return model


def backward(engine, factor):
    with engine.autocast():
        output = engine.model(torch.tensor([[3.0, 4.0]]))
    engine.backward(output.float().sum() * factor)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_the_norm_is_that_of_the_true_gradient(precision):
    engine = engine_of(linear(), precision)
    backward(engine, 0.125)
    # The gradient is an eighth of (3, 4).
    assert float(engine.clip(None)) == 5 / 8


def test_a_gradient_that_float16_does_not_hold_arrives():
    # 2 ** -26 is a quarter of float16's smallest number.
    tiny, engine = 2.0**-26, engine_of(linear(), "fp16")
    backward(engine, tiny)
    assert float(engine.clip(None)) == 5 * tiny
    assert torch.tensor(tiny).half() == 0


def test_clipping_acts_on_the_true_gradient():
    engine = engine_of(linear(), "fp16")
    backward(engine, 0.125)
    engine.clip(0.5)
    torch.testing.assert_close(engine.model.weight.grad, torch.tensor([[0.3, 0.4]]))


def test_a_step_that_overflows_is_left_out_and_the_next_has_half_the_scale():
    engine = engine_of(linear(), "fp16")
    before = engine.model.weight.detach().clone()
    backward(engine, 1000.0)
    assert not torch.isfinite(engine.clip(1.0))
    assert engine.loss_scale == FIRST_SCALE
    engine.step(lr=0.1)
    assert torch.equal(engine.model.weight, before)
    assert engine.model.weight.grad is None
    assert engine.loss_scale == FIRST_SCALE / 2
    backward(engine, 0.125)
    engine.clip(1.0)
    engine.step(lr=0.1)
    assert not torch.equal(engine.model.weight, before)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_other_precisions_scale_nothing(precision):
    engine = engine_of(linear(), precision)
    assert engine.loss_scale == 1
    backward(engine, 1.0)
    assert torch.equal(engine.model.weight.grad, torch.tensor([[3.0, 4.0]]))
    assert not any("scal" in name for name in engine.optimizer_state())


def test_gradients_that_pass_a_frozen_float16_part_are_scaled_too():
    model = nn.Sequential(linear(), nn.Linear(1, 1).half().requires_grad_(False))
    assert engine_of(model, "bf16").loss_scale == FIRST_SCALE


def test_the_loss_scale_goes_into_the_state_and_comes_back():
    first = engine_of(linear(), "fp16")
    for factor in (1000.0, 1000.0, 0.125, 0.125, 0.125):
        backward(first, factor)
        first.clip(None)
        first.step(lr=0.1)
    state = first.optimizer_state()
    assert state[SCALE].item() == FIRST_SCALE / 4
    assert state[NUM_GOOD_STEPS].item() == 3
    second = engine_of(linear(), "fp16")
    second.load_optimizer_state(state)
    again = second.optimizer_state()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_a_state_from_before_the_first_step_that_was_made_can_be_loaded():
    first = engine_of(linear(), "fp16")
    backward(first, 1000.0)
    first.clip(None)
    first.step(lr=0.1)
    second = engine_of(linear(), "fp16")
    second.load_optimizer_state(first.optimizer_state())
    assert second.loss_scale == FIRST_SCALE / 2


class Loud(VideoTextPretrain):
    """Multiplies the loss, so that float16 overflows until the scale has fallen."""

    def __init__(self, factor):
        self.factor = factor

    def train_step(self, model, batch):
        output = super().train_step(model, batch)
        output.loss_sum = output.loss_sum * self.factor
        return output


@pytest.mark.parametrize("stop_before_step", [0, 4, 8])
def test_a_float16_run_goes_on_to_the_bit_where_it_stopped(tmp_path, stop_before_step):
    task, length = Loud(1000.0), {"precision": "fp16", "iters_per_epoch": 6}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    build(config_of(whole, **length), World(), task=task).train()
    config = config_of(parts, **length)
    build(config, World(), task=task, stop_before_step=stop_before_step).train()
    build(config_of(parts, resume_ckpt_path="auto", **length), World(), task=task).train()
    last = "checkpoints/last"
    left, right = load_optimizer_file(whole / last), load_optimizer_file(parts / last)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert left[SCALE] < FIRST_SCALE


def test_steps_left_out_are_counted_and_the_run_goes_on(tmp_path):
    config = config_of(tmp_path, precision="fp16", iters_per_epoch=8)
    summary = build(config, World(), task=Loud(1000.0)).train()
    assert summary.is_finished
    records = [line for line in read_lines(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    num_left_out = sum(line.get("steps_left_out", 0) for line in records)
    scale = load_optimizer_file(tmp_path / "checkpoints/last")[SCALE].item()
    assert 0 < num_left_out < len(records)
    assert scale == FIRST_SCALE / 2**num_left_out
    assert "left out: gradients overflow at loss scale 65536" in (tmp_path / "log.txt").read_text()


def test_gradients_that_overflow_at_every_scale_stop_the_run(tmp_path):
    config = config_of(tmp_path, precision="fp16", iters_per_epoch=20)
    runner = build(config, World(), task=Loud(1e9))
    with pytest.raises(VideoLlamaError, match=r"step 17: .* gradient norm (inf|nan).*precision"):
        runner.train()
    assert all(torch.isfinite(parameter).all() for parameter in runner.model.parameters())


def test_only_what_trains_is_kept():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    assert sorted(engine_of(model, "fp32").trainable_state()) == ["1.bias", "1.weight"]
