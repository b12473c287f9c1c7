import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from video_llama.common.errors import CheckpointMismatch, VideoLlamaError
from video_llama.runners.checkpoint import (
    RunState,
    complete_checkpoints,
    load_optimizer_file,
    load_trainable,
    prune,
    read_state,
    save_checkpoint,
    set_aside_newer,
    trainable_state,
)


def save(folder, step, *, best_step=None):
    state = RunState(
        step=step,
        steps_per_epoch=10,
        global_batch_size=4,
        best_step=best_step,
        best_metric=None if best_step is None else 1.5,
        config={"run": {"seed": 1}},
    )
    weights = {"layer.weight": torch.full((2, 3), float(step))}
    moments = {"layer.weight::exp_avg": torch.full((2, 3), step / 7)}
    return save_checkpoint(folder, weights=weights, optimizer=moments, state=state)


def names(folder):
    return [path.name for path in complete_checkpoints(folder)]


def test_a_checkpoint_reads_back_bit_equal(tmp_path):
    path = save(tmp_path, 7)
    model = nn.Sequential()
    model.add_module("layer", nn.Linear(3, 2, bias=False))
    load_trainable(model, checkpoint=path)
    assert torch.equal(model.layer.weight, torch.full((2, 3), 7.0))
    moment = load_optimizer_file(path)["layer.weight::exp_avg"]
    assert torch.equal(moment, torch.full((2, 3), 7 / 7))
    assert read_state(path).step == 7


def test_only_what_trains_is_stored():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    assert sorted(trainable_state(model)) == ["1.bias", "1.weight"]


def test_a_missing_and_a_strange_parameter_are_both_named(tmp_path):
    path = save(tmp_path, 1)
    with pytest.raises(CheckpointMismatch) as caught:
        load_trainable(nn.Linear(3, 2, bias=False), checkpoint=path)
    assert "layer.weight: only in the checkpoint" in str(caught.value)
    assert "  - weight: only in the model" in str(caught.value)


def test_another_shape_is_named_with_both_shapes(tmp_path):
    model = nn.Sequential()
    model.add_module("layer", nn.Linear(4, 2, bias=False))
    with pytest.raises(CheckpointMismatch, match=r"\[2, 3\] in the checkpoint, \[2, 4\]"):
        load_trainable(model, checkpoint=save(tmp_path, 1))


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, step, best_step=10 if step < 20 else 20)
        prune(tmp_path, keep_last=2)
    assert names(tmp_path) == ["step_0000020", "step_0000040", "step_0000050"]
    assert (tmp_path / "best").resolve().name == "step_0000020"
    assert (tmp_path / "last").resolve().name == "step_0000050"


def test_order_goes_by_number_not_by_text(tmp_path):
    save(tmp_path, 9_999_999)
    save(tmp_path, 10_000_000)
    assert names(tmp_path)[-1] == "step_10000000"


@pytest.mark.parametrize("damage", ["truncate", "delete", "no_state"])
def test_a_half_copied_checkpoint_is_not_taken(tmp_path, damage):
    save(tmp_path, 1)
    broken = save(tmp_path, 2)
    weights = broken / "trainable.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-3])
    elif damage == "delete":
        weights.unlink()
    else:
        (broken / "state.json").write_text('{"step": 2, "fil')
    assert names(tmp_path) == ["step_0000001"]
    with pytest.raises(CheckpointMismatch, match="not a complete checkpoint"):
        read_state(broken)


def test_the_same_step_again_keeps_what_is_there(tmp_path):
    before = (save(tmp_path, 3) / "state.json").stat().st_ino
    assert (save(tmp_path, 3) / "state.json").stat().st_ino == before


def test_going_back_sets_newer_checkpoints_aside(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    moved = set_aside_newer(tmp_path, step=1)
    assert [path.name for path in moved] == ["superseded_step_0000002", "superseded_step_0000003"]
    assert names(tmp_path) == ["step_0000001"]


WRITER = """
import resource, sys
from pathlib import Path
import torch
from video_llama.runners.checkpoint import RunState, save_checkpoint
folder, step, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
mode = sys.argv[4]
if mode == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
if mode.startswith("kill_at_flush"):
    import os, signal
    left, fsync = [int(mode.rpartition("_")[2])], os.fsync
    def flush_or_die(descriptor):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        fsync(descriptor)
    os.fsync = flush_or_die
save_checkpoint(
    folder,
    weights={"w": torch.full((size,), float(step))},
    optimizer={"w::exp_avg": torch.zeros(size)},
    state=RunState(step=step, steps_per_epoch=1, global_batch_size=1),
)
"""


def start_writer(folder, *, step, size, mode):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(step), str(size), mode],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("flushes", range(6))
def test_a_kill_while_writing_leaves_a_loadable_newest(tmp_path, flushes):
    save(tmp_path, 1)
    writer = start_writer(tmp_path, step=2, size=1000, mode=f"kill_at_flush_{flushes}")
    writer.communicate(timeout=600)
    assert writer.returncode in (0, -signal.SIGKILL)
    # Four flushes come before the rename, the folder's own after it.
    newest = complete_checkpoints(tmp_path)[-1]
    assert newest.name == ("step_0000001" if flushes < 4 else "step_0000002")
    assert read_state(newest).step == int(newest.name[-1])
    prune(tmp_path, keep_last=1)
    assert [path.name for path in tmp_path.iterdir() if not path.is_symlink()] == [newest.name]


def test_a_full_disk_is_explained_and_the_old_checkpoint_stays(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def no_space(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(VideoLlamaError, match=r"No space left on device.*run.keep_last=1"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["step_0000001"]
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_explained_too(tmp_path):
    writer = start_writer(tmp_path, step=2, size=1_000_000, mode="full")
    _, errors = writer.communicate(timeout=600)
    assert writer.returncode == 1
    assert "cannot write the checkpoint" in errors
    assert not list(tmp_path.iterdir())


def test_the_state_file_is_plain_json(tmp_path):
    values = json.loads((save(tmp_path, 5, best_step=5) / "state.json").read_text())
    assert (values["step"], values["best_metric"], values["config"]["run"]["seed"]) == (5, 1.5, 1)
