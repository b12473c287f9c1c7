import json
import os
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.common.errors import CheckpointMismatch, VideoLlamaError
from video_llama.runners.checkpoint import (
    RunState,
    find_damage,
    load_optimizer_file,
    load_weights_file,
    read_state,
)
from video_llama.runners.retention import (
    complete_checkpoints,
    newest_whole,
    save_checkpoint,
    set_aside_newer,
)


def save(folder, step, *, best_step=None, keep_last=9):
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
    return save_checkpoint(
        folder, weights=weights, optimizer=moments, state=state, keep_last=keep_last
    )


def names(folder):
    return [path.name for path in complete_checkpoints(folder)]


def test_a_checkpoint_reads_back_bit_equal(tmp_path):
    path = save(tmp_path, 7)
    weights = load_weights_file(path, shapes={"layer.weight": torch.Size([2, 3])})
    assert torch.equal(weights["layer.weight"], torch.full((2, 3), 7.0))
    moment = load_optimizer_file(path)["layer.weight::exp_avg"]
    assert torch.equal(moment, torch.full((2, 3), 7 / 7))
    assert read_state(path).step == 7


def test_a_missing_and_a_strange_parameter_are_both_named(tmp_path):
    path = save(tmp_path, 1)
    with pytest.raises(CheckpointMismatch) as caught:
        load_weights_file(path, shapes={"weight": torch.Size([2, 3])})
    assert "layer.weight: only in the checkpoint" in str(caught.value)
    assert "  - weight: only in the model" in str(caught.value)


def test_another_shape_is_named_with_both_shapes(tmp_path):
    with pytest.raises(CheckpointMismatch, match=r"\[2, 3\] in the checkpoint, \[2, 4\]"):
        load_weights_file(save(tmp_path, 1), shapes={"layer.weight": torch.Size([2, 4])})


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, step, best_step=10 if step < 20 else 20, keep_last=2)
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


def test_the_same_step_again_keeps_the_tensors_and_renews_what_is_said_of_the_run(tmp_path):
    weights = save(tmp_path, 3) / "trainable.safetensors"
    before = weights.stat().st_ino
    path = save(tmp_path, 3, best_step=3)
    assert weights.stat().st_ino == before
    assert read_state(path).best_step == 3
    assert find_damage(path, is_thorough=True) is None
    assert (tmp_path / "best").resolve() == path


def test_the_same_step_again_replaces_tensors_of_which_a_bit_has_changed(tmp_path):
    flip(save(tmp_path, 3) / "trainable.safetensors", byte=-1, bit=0)
    path = save(tmp_path, 3)
    assert find_damage(path, is_thorough=True) is None
    weights = load_weights_file(path, shapes={"layer.weight": torch.Size([2, 3])})
    assert torch.equal(weights["layer.weight"], torch.full((2, 3), 3.0))


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "out").write_text("a file where a directory should be")
    with pytest.raises(VideoLlamaError, match=r"cannot write the checkpoint.*GiB free"):
        save(tmp_path / "out" / "checkpoints", 1)


def test_no_link_is_left_to_what_was_set_aside(tmp_path):
    save(tmp_path, 1, best_step=1)
    save(tmp_path, 2, best_step=1)
    set_aside_newer(tmp_path, step=1)
    assert not (tmp_path / "last").is_symlink()
    assert (tmp_path / "best").resolve().name == "step_0000001"


def test_going_back_sets_newer_checkpoints_aside(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    moved = set_aside_newer(tmp_path, step=1)
    assert [path.name for path in moved] == ["superseded_step_0000002", "superseded_step_0000003"]
    assert names(tmp_path) == ["step_0000001"]


def test_a_full_disk_is_explained_and_the_old_checkpoint_stays(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def no_space(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(VideoLlamaError, match=r"No space left on device.*run.keep_last=1"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["step_0000001"]
    assert not list(tmp_path.glob(".partial*"))


def test_the_state_file_is_plain_json(tmp_path):
    values = json.loads((save(tmp_path, 5, best_step=5) / "state.json").read_text())
    assert (values["step"], values["best_metric"], values["config"]["run"]["seed"]) == (5, 1.5, 1)


def test_a_link_to_a_best_one_that_is_gone_is_not_made(tmp_path):
    save(tmp_path, 3, best_step=2)
    assert not (tmp_path / "best").is_symlink()


def flip(path, *, byte, bit):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


@given(
    name=st.sampled_from(["trainable.safetensors", "optimizer.safetensors", "state.json"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
@settings(deadline=None, max_examples=60)
def test_a_single_flipped_bit_is_noticed_or_means_nothing(name, place, bit):
    with TemporaryDirectory() as folder:
        path = save(Path(folder), 1)
        before = read_state(path)
        file = path / name
        flip(file, byte=int(place * file.stat().st_size), bit=bit)
        damage = find_damage(path, is_thorough=True)
        # White space between the values of state.json may change and is no damage.
        assert (damage is not None and name in damage) or read_state(path) == before


def test_a_damaged_newest_is_named_and_the_one_before_taken(tmp_path, caplog):
    save(tmp_path, 1)
    flip(save(tmp_path, 2) / "optimizer.safetensors", byte=-1, bit=3)
    assert newest_whole(tmp_path).name == "step_0000001"
    assert "step_0000002 is damaged (optimizer.safetensors: not what was written" in caplog.text


def test_a_state_of_another_version_is_named(tmp_path):
    path = save(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    del state["crc32"]
    state["mood"] = "good"
    text = json.dumps({**state, "crc32": zlib.crc32(json.dumps(state, sort_keys=True).encode())})
    (path / "state.json").write_text(text)
    with pytest.raises(CheckpointMismatch, match="'mood'; it was written by another version"):
        read_state(path)


def test_a_link_that_cannot_be_made_is_told_from_a_checkpoint_that_cannot_be_written(
    tmp_path, monkeypatch
):
    def refuse(*args, **kwargs):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(VideoLlamaError, match=r"written whole, but .*No space left"):
        save(tmp_path, 1)
    assert names(tmp_path) == ["step_0000001"]
