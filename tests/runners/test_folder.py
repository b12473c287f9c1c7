"""Checkpoints that lie beside a run's start, and that it leaves nothing open."""

import logging
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import build, config_of

from video_llama.common.dist import World
from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.runners import folder as folder_module
from video_llama.runners.checkpoint import WEIGHTS_FILE, find_damage
from video_llama.runners.retention import complete_checkpoints

ALONE = World()


def flip_a_bit(checkpoint):
    path = checkpoint / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def trained(folder, name):
    """Return a checkpoint's tensors; not its file's memory, which a test may change."""
    stored = load_file(folder / "checkpoints" / name / WEIGHTS_FILE)
    return {name: tensor.clone() for name, tensor in stored.items()}


def names(folder):
    return [path.name for path in complete_checkpoints(folder / "checkpoints")]


def test_a_run_whose_only_checkpoint_is_damaged_keeps_what_it_saves_from_then_on(tmp_path):
    shape = {"save_freq": "2 steps", "keep_last": 1, "valid_freq": 9}
    build(config_of(tmp_path, **shape), ALONE).train()
    checkpoints = tmp_path / "checkpoints"
    whole = trained(tmp_path, "step_0000008")
    flip_a_bit(checkpoints / "step_0000008")
    config = config_of(tmp_path, resume_ckpt_path="auto", **shape)
    stopped = build(config, ALONE, stop_before_step=3).train()
    assert stopped.state.step == 3
    assert names(tmp_path) == ["step_0000003"]
    assert (checkpoints / "last").resolve().name == "step_0000003"
    build(config, ALONE).train()
    assert find_damage(checkpoints / "step_0000008", is_thorough=True) is None
    again = trained(tmp_path, "step_0000008")
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    assert (checkpoints / "superseded_step_0000008").is_dir()


def test_checkpoints_of_another_past_are_not_taken_for_this_runs_own(tmp_path):
    ours, other = tmp_path / "ours", tmp_path / "other"
    shape = {"save_freq": "2 steps", "valid_freq": 9}
    for folder, dropout in ((ours, 0.5), (other, 0.1)):
        build(config_of(folder, keep_last=9, **shape), ALONE, dropout=dropout).train()
    start = str(other / "checkpoints" / "step_0000004")
    config = config_of(ours, keep_last=1, resume_ckpt_path=start, **shape)
    stopped = build(config, ALONE, stop_before_step=4).train()
    assert stopped.state.step == 4
    assert names(ours) == ["step_0000004"]
    saved, theirs = trained(ours, "last"), trained(other, "step_0000004")
    assert all(torch.equal(saved[name], tensor) for name, tensor in theirs.items())


def test_a_tracker_that_refuses_leaves_no_log_open(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise ConfigError("no API key")

    monkeypatch.setattr(folder_module, "open_tracker", refuse)
    before = list(get_logger().handlers)
    with pytest.raises(ConfigError, match="no API key"):
        build(config_of(tmp_path), ALONE).train()
    assert get_logger().handlers == before


def test_numbers_that_cannot_be_closed_leave_no_log_open(tmp_path, monkeypatch):
    def fail():
        raise OSError("stale file handle")

    log = SimpleNamespace(write=lambda *args, **kwargs: None, close=fail)
    monkeypatch.setattr(folder_module, "MetricsLog", lambda *args, **kwargs: log)
    before = list(get_logger().handlers)
    with pytest.raises(OSError, match="stale file handle"):
        build(config_of(tmp_path), ALONE).train()
    assert get_logger().handlers == before
    assert not any(isinstance(handler, logging.FileHandler) for handler in before)
