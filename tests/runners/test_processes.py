"""Runs of several processes; each starts real ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import build, config_of

from video_llama.common.dist import World
from video_llama.runners.metrics import read_lines

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
