"""What DeepSpeed is told, and what is refused; nothing here imports it."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_llama.common.errors import ConfigError
from video_llama.common.schema import RunConfig
from video_llama.common.zero import Zero
from video_llama.runners.deepspeed_config import deepspeed_config, zero_settings
from video_llama.runners.engines import model_device, refuse_unusable
from video_llama.runners.loss_scale import LossScale
from video_llama.runners.optimizer_state import NUM_GOOD_STEPS, SCALE


def config_of(run: RunConfig, *, low_resource: str = "none") -> SimpleNamespace:
    return SimpleNamespace(run=run, model=SimpleNamespace(low_resource=low_resource))


def run_of(**keys) -> RunConfig:
    return RunConfig("video_text_pretrain", "out", engine="deepspeed", **keys)


def test_a_step_has_the_samples_of_all_ranks_and_iterations():
    run = run_of(batch_size_train=3, iters_per_epoch=4, accum_grad_iters=2)
    told = deepspeed_config(run, world_size=5)
    assert told["train_batch_size"] == 3 * 2 * 5


def test_neither_precision_nor_optimizer_nor_schedule_are_handed_over():
    told = deepspeed_config(run_of(precision="bf16"), world_size=1)
    assert not told.keys() & {"bf16", "fp16", "optimizer", "scheduler", "torch_autocast"}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_is_offloaded_is_said_only_where_it_is_asked_for(stage):
    plain = deepspeed_config(run_of(zero=Zero(stage)), world_size=1)["zero_optimization"]
    assert plain["stage"] == stage
    assert not plain.keys() & {"offload_optimizer", "offload_param"}
    run = run_of(zero=Zero(stage, offload_optimizer="cpu"))
    offloaded = deepspeed_config(run, world_size=1)["zero_optimization"]
    assert offloaded["offload_optimizer"]["device"] == "cpu"


def test_without_a_block_gradients_are_divided():
    assert zero_settings(run_of()) == Zero(stage=2)
    assert zero_settings(RunConfig("video_text_pretrain", "out")) is None


def test_only_a_model_that_is_divided_is_put_together_on_the_cpu():
    assert model_device(run_of(zero=Zero(3)), device="cuda:1") == "cpu"
    assert model_device(run_of(zero=Zero(2)), device="cuda:1") == "cuda:1"


def test_the_block_is_refused_where_another_engine_would_ignore_it():
    with pytest.raises(ConfigError, match="engine: deepspeed, found engine: ddp"):
        RunConfig("video_text_pretrain", "out", engine="ddp", zero=Zero())


def test_weights_cannot_be_offloaded_where_every_process_needs_them_all():
    with pytest.raises(ValueError, match="offload_parameters: cpu needs stage 3"):
        Zero(stage=2, offload_parameters="cpu")


def test_a_gpu_deepspeed_does_not_know_is_refused():
    with pytest.raises(ConfigError, match="device is 'mps'"):
        refuse_unusable(config_of(run_of()), device="mps")


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'video-llama\[train\]'"):
        refuse_unusable(config_of(run_of()), device="cpu")


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 1999))
def test_the_loss_scale_moves_as_torchs_own(overflows, good_steps):
    state = {SCALE: torch.tensor(2.0**16), NUM_GOOD_STEPS: torch.tensor(good_steps)}
    ours = LossScale(is_enabled=True)
    ours.load(state)
    scale, tracker = torch.tensor(2.0**16), torch.tensor(good_steps, dtype=torch.int32)
    for overflowed in overflows:
        ours.update(overflowed=overflowed)
        torch._amp_update_scale_(scale, tracker, torch.tensor(float(overflowed)), 2.0, 0.5, 2000)
    assert ours.value == scale.item()
    assert ours.state()[NUM_GOOD_STEPS].item() == tracker.item()


def test_without_float16_nothing_is_scaled():
    scale = LossScale(is_enabled=False)
    scale.update(overflowed=True)
    assert scale.value == 1
    assert scale.state() == {}
