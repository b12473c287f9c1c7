from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.state_files import read_notes, read_state

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([7, 8])}


def write_safetensors(folder: Path) -> Path:
    save_file(STATE, folder / "x.safetensors")
    return folder / "x.safetensors"


def write_pth(folder: Path) -> Path:
    torch.save(STATE, folder / "x.pth")
    return folder / "x.pth"


def write_old_pth(folder: Path) -> Path:
    torch.save(STATE, folder / "x.pth", _use_new_zipfile_serialization=False)
    return folder / "x.pth"


def write_runner_checkpoint(folder: Path) -> Path:
    torch.save({"model": STATE, "optimizer": {"step": 3}, "scaler": None}, folder / "x.pth")
    return folder / "x.pth"


def write_whole_hf_directory(folder: Path) -> Path:
    torch.save(STATE, folder / "pytorch_model.bin")
    (folder / "config.json").write_text("{}")
    return folder


def write_sharded_hf_directory(folder: Path) -> Path:
    weight_map = {}
    for index, (name, tensor) in enumerate(STATE.items()):
        file = f"model-{index}.safetensors"
        save_file({name: tensor}, folder / file)
        weight_map[name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_directory_with_one_file(folder: Path) -> Path:
    write_pth(folder)
    (folder / "LICENSE").write_text("terms")
    return folder


@pytest.mark.parametrize(
    "write",
    [
        write_safetensors,
        write_pth,
        write_old_pth,
        write_runner_checkpoint,
        write_whole_hf_directory,
        write_sharded_hf_directory,
        write_directory_with_one_file,
    ],
)
def test_every_layout_gives_the_same_tensors(write, tmp_path):
    found = read_state(write(tmp_path))
    assert sorted(found) == sorted(STATE)
    for name, tensor in STATE.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_name_that_is_not_in_the_file_is_a_key_error(tmp_path):
    state = read_state(write_safetensors(tmp_path))
    with pytest.raises(KeyError):
        state["c"]


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "eva_vit_g.pth").touch()
    with pytest.raises(CheckpointMismatch, match="no such file; nearest in .*: eva_vit_g.pth"):
        read_state(tmp_path / "eva_vit_G.pth")


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(CheckpointMismatch, match="folder .*ckpt does not exist either"):
        read_state(tmp_path / "ckpt" / "x.pth")


@pytest.mark.parametrize(
    "page", ["<!DOCTYPE html><html>login</html>", "\n  <html><body>", "<?xml version='1.0'?>"]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_saved_web_page_is_recognised(page, suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_text(page)
    with pytest.raises(CheckpointMismatch, match="a web page, not weights"):
        read_state(path)


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(CheckpointMismatch, match="git lfs pull"):
        read_state(path)


@pytest.mark.parametrize("write", [write_safetensors, write_pth, write_old_pth])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_partial_download_is_recognised(write, share, tmp_path):
    path = write(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointMismatch, match="download it again"):
        read_state(path)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_file_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "it_ran"
    torch.save({"a": torch.zeros(1), "x": Payload(mark)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointMismatch, match="would run code"):
        read_state(tmp_path / "x.pth")
    assert not mark.exists()


def test_entries_that_are_no_tensors_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1), "epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(CheckpointMismatch, match="something else, e.g. 'epoch'"):
        read_state(tmp_path / "x.pth")


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointMismatch, match="not a complete file of weights"):
        read_state(tmp_path / "x.pth")


def test_a_lost_shard_is_named(tmp_path):
    write_sharded_hf_directory(tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointMismatch, match=r"not there: model-1\.safetensors"):
        read_state(tmp_path)


def test_a_directory_with_two_candidates_asks_for_one(tmp_path):
    write_pth(tmp_path)
    write_safetensors(tmp_path)
    with pytest.raises(CheckpointMismatch, match=r"found: x\.pth, x\.safetensors"):
        read_state(tmp_path)


def resident_bytes(path: Path) -> int:
    """How much of a mapped file is in this process's memory."""
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            is_ours = words[-1] == str(path)
        elif is_ours and words[0] == "Rss:":
            total += int(words[1]) * 1024
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's smaps")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_only_the_bytes_of_tensors_that_are_asked_for_are_read(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    tensors = {name: torch.ones(1 << 20) for name in ("trunk", "text", "depth", "thermal")}
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    state = read_state(path)
    assert all(state[name].shape == (1 << 20,) for name in tensors)
    assert resident_bytes(path) < (1 << 20)
    assert state["trunk"].sum() == 1 << 20
    # The kernel maps the pages around a page too.
    assert tensors["trunk"].nbytes <= resident_bytes(path) < 1.3 * tensors["trunk"].nbytes


def test_what_was_saved_beside_the_weights_can_be_read(tmp_path):
    assert read_notes(write_runner_checkpoint(tmp_path)) == {
        "optimizer": {"step": 3}, "scaler": None,
    }  # fmt: skip
    assert read_notes(write_safetensors(tmp_path)) == {}
    assert read_notes(write_old_pth(tmp_path)) == {}
