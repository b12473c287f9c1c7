"""The real model through the real door on two processes: empty branches and all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_project import write_project

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns_though_every_step_leaves_a_branch_empty(tmp_path):
    run_file = write_project(tmp_path)
    tree = yaml.safe_load(run_file.read_text())
    clips = tree["datasets"].pop("clips")
    for stream in ("video", "audio"):
        tree["datasets"][stream] = {**clips, "streams": [stream]}
    tree["run"] |= {"iters_per_epoch": 6, "init_lr": 1.0e-3}
    run_file.write_text(yaml.safe_dump(tree))
    weights = {}
    for ranks in (1, 2):
        out = tmp_path / f"ranks_{ranks}"
        options = [f"run.batch_size_train={4 // ranks}", f"run.output_dir={out}"]
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc_per_node={ranks}", str(ROOT / "train.py"), "--cfg-path", str(run_file),
             "--options", *options],
            cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        weights[ranks] = load_file(out / "checkpoints" / "last" / "trainable.safetensors")
    assert weights[1].keys() == weights[2].keys()
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[2][name], tensor, atol=2e-4, rtol=1e-3, msg=name)
