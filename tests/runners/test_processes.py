"""Runs of several processes, and runs that are killed; each starts real ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import build, config_of

from video_llama.common.dist import World
from video_llama.runners.metrics import read_lines
from video_llama.runners.retention import complete_checkpoints

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("tiny_run.py")
LIMIT_S = 600
"""Ends what hangs; far more than anything here takes on a busy machine."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[2])}


def start(out, *words, launcher=()):
    command = [sys.executable, *launcher, str(PROGRAM), str(out), *words]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def final_weights(folder):
    return load_file(folder / "checkpoints" / "last" / "trainable.safetensors")


def losses(folder):
    lines = read_lines(folder / "metrics.jsonl")
    return [line.get("loss", line.get("valid_loss")) for line in lines]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """A finished run of two processes with two iterations a step."""
    out = tmp_path_factory.mktemp("two_ranks")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    words = ("batch_size_train=1", "accum_grad_iters=2", "iters_per_epoch=8", "keep_last=9")
    process = start(out, *words, launcher=launcher)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    return out


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The same run in one process and one piece."""
    out = tmp_path_factory.mktemp("one_process")
    build(config_of(out), World(), dropout=0.0).train()
    return out


def test_two_processes_learn_what_one_learns(two_ranks, one_process):
    for name, tensor in final_weights(one_process).items():
        torch.testing.assert_close(final_weights(two_ranks)[name], tensor, atol=1e-5, rtol=1e-4)
    assert losses(two_ranks) == pytest.approx(losses(one_process), rel=1e-4)


def test_one_process_goes_on_with_a_run_of_two(two_ranks, one_process, tmp_path):
    config = config_of(
        tmp_path,
        resume_ckpt_path=str(two_ranks / "checkpoints" / "step_0000004"),
        batch_size_train=2,
        accum_grad_iters=2,
        iters_per_epoch=8,
    )
    build(config, World(), dropout=0.0).train()
    for name, tensor in final_weights(one_process).items():
        torch.testing.assert_close(final_weights(tmp_path)[name], tensor, atol=1e-5, rtol=1e-4)


def test_only_rank_zero_writes(two_ranks):
    steps = [line["step"] for line in read_lines(two_ranks / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert len(steps) == 8 + 2


def test_a_run_killed_again_and_again_equals_one_that_was_not(tmp_path):
    shape = ("iters_per_epoch=2", "max_epoch=150", "dropout=1e-1")
    killed = tmp_path / "killed"
    for pause_s in (0.05, 0.3):
        seen = complete_checkpoints(killed / "checkpoints") if killed.exists() else []
        process = start(killed, "resume_ckpt_path=auto", "wait_before_step=299", *shape)
        deadline = time.monotonic() + LIMIT_S
        while complete_checkpoints(killed / "checkpoints")[-1:] == seen[-1:]:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(killed, "resume_ckpt_path=auto", *shape)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    whole = tmp_path / "whole"
    build(config_of(whole, iters_per_epoch=2, max_epoch=150), World()).train()
    ours, theirs = final_weights(killed), final_weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(killed) == losses(whole)


def test_sigterm_saves_and_ends_cleanly(tmp_path):
    process = start(tmp_path, "iters_per_epoch=1000", "max_epoch=100")
    while not (tmp_path / "metrics.jsonl").exists() or not losses(tmp_path):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    checkpoint = complete_checkpoints(tmp_path / "checkpoints")[-1]
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["step"] == read_lines(tmp_path / "metrics.jsonl")[-1]["step"]
