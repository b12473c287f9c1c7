"""The real model through the real door on two machines, as far as one machine can be two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from promises.launch import LIMIT_S, free_port
from safetensors.torch import load_file
from tiny_project import write_project

from video_llama.apps.main import main

ROOT = Path(__file__).parents[2]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "last" / "trainable.safetensors")


@pytest.mark.slow
def test_two_nodes_learn_what_one_process_learns_though_every_step_leaves_a_branch_empty(tmp_path):
    run_file = write_project(tmp_path)
    tree = yaml.safe_load(run_file.read_text())
    clips = tree["datasets"].pop("clips")
    for stream in ("video", "audio"):
        tree["datasets"][stream] = {**clips, "streams": [stream]}
    tree["run"] |= {"iters_per_epoch": 6, "init_lr": 1.0e-3}
    run_file.write_text(yaml.safe_dump(tree))
    node = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
        "--rdzv-id=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}",
        str(ROOT / "train.py"), "--cfg-path", str(run_file),
        "--options", "run.batch_size_train=2", f"run.output_dir={tmp_path / 'two'}",
    ]  # fmt: skip
    nodes = [
        subprocess.Popen(node, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in nodes:
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, errors[-3000:]
    assert main(["train", "--cfg-path", str(run_file)]) == 0
    one, two = weights_of(tmp_path / "out"), weights_of(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=1e-3, msg=name)
