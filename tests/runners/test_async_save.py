import os
import subprocess
import threading

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import build, config_of

from video_llama.common.dist import World
from video_llama.common.errors import VideoLlamaError
from video_llama.runners import async_save
from video_llama.runners import folder as folder_module
from video_llama.runners.async_save import Background, HostCopy
from video_llama.runners.checkpoint import read_state
from video_llama.runners.provenance import git_state, written_by
from video_llama.runners.retention import complete_checkpoints

ALONE = World()


def test_a_copy_keeps_what_the_training_changes_afterwards():
    weight = torch.ones(3, 2).t()
    copy = HostCopy().take({"w": weight})["w"]
    weight.zero_()
    assert torch.equal(copy, torch.ones(2, 3))
    assert copy.is_contiguous()


def test_memory_for_the_copy_is_used_again_and_what_is_gone_is_left_out():
    keeper = HostCopy()
    first = keeper.take({"w": torch.ones(4), "old": torch.ones(1)})["w"].data_ptr()
    again = keeper.take({"w": torch.zeros(4)})
    assert list(again) == ["w"]
    assert again["w"].data_ptr() == first


def test_jobs_run_one_after_the_other():
    gate, order, background = threading.Event(), [], Background()
    background.start(lambda: (gate.wait(), order.append(1)))
    assert not order
    threading.Timer(0.05, gate.set).start()
    background.start(lambda: order.append(2))
    background.wait()
    assert order == [1, 2]


def test_an_error_is_raised_once_by_the_next_call():
    def fail():
        raise VideoLlamaError("the disk is full")

    background = Background()
    background.start(fail)
    with pytest.raises(VideoLlamaError, match="the disk is full"):
        background.wait()
    background.check()


def test_an_error_that_comes_while_another_looks_is_not_lost(monkeypatch):
    failed, gate = threading.Event(), threading.Event()
    keep = async_save._Outcome.__exit__

    def keep_slowly(self, *raised):
        done = keep(self, *raised)
        failed.set()
        assert gate.wait(timeout=60)
        return done

    def fail():
        raise VideoLlamaError("the disk is full")

    monkeypatch.setattr(async_save._Outcome, "__exit__", keep_slowly)
    background = Background()
    background.start(fail)
    assert failed.wait(timeout=60)
    # The thread may still store what it has: nothing is taken from under its hands.
    background.check()
    gate.set()
    with pytest.raises(VideoLlamaError, match="the disk is full"):
        background.wait()


@pytest.fixture
def slow_disk(monkeypatch):
    """Writing waits until it is let; gives the event that lets it."""
    gate, write = threading.Event(), folder_module.save_checkpoint

    def save_slowly(*args, **kwargs):
        assert gate.wait(timeout=60)
        return write(*args, **kwargs)

    monkeypatch.setattr(folder_module, "save_checkpoint", save_slowly)
    return gate


def test_the_training_goes_on_while_a_checkpoint_is_written(tmp_path, slow_disk):
    config = config_of(tmp_path, save_freq="3 steps", keep_last=9, valid_freq=9)
    runner = build(config, ALONE)
    batches = runner.data.train_batches

    def watched(start_step):
        for index, loaded in enumerate(batches(start_step)):
            if index == 5:
                # Three steps were made since the save began, and nothing is on the disk.
                assert not complete_checkpoints(tmp_path / "checkpoints")
                slow_disk.set()
            yield loaded

    runner.data.train_batches = watched
    runner.train()
    paths = complete_checkpoints(tmp_path / "checkpoints")
    assert [read_state(path).step for path in paths] == [3, 6, 8]


def test_what_is_written_beside_the_training_is_what_was_then(tmp_path):
    shape = {"save_freq": "2 steps", "keep_last": 9}
    for name in ("beside", "between"):
        config = config_of(tmp_path / name, async_save=name == "beside", **shape)
        build(config, ALONE).train()
    paths = complete_checkpoints(tmp_path / "between" / "checkpoints")
    assert len(paths) == 4
    for path in paths:
        for file in ("trainable.safetensors", "optimizer.safetensors"):
            theirs = load_file(path / file)
            ours = load_file(tmp_path / "beside" / "checkpoints" / path.name / file)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("async_save", [True, False])
def test_a_full_disk_ends_the_run_at_the_next_step_and_leaves_the_older_one(
    tmp_path, monkeypatch, async_save
):
    config = config_of(tmp_path, save_freq="2 steps", async_save=async_save, keep_last=9)
    runner = build(config, ALONE)
    fsync, make, steps, is_fifth = os.fsync, runner.maker.measure, [], threading.Event()

    def no_space_after_the_first(descriptor):
        if (tmp_path / "checkpoints" / ".partial_step_0000004").exists():
            assert not async_save or is_fifth.wait(timeout=60)
            raise OSError(28, os.strerror(28))
        fsync(descriptor)

    def slowly(*args, **kwargs):
        steps.append(kwargs["step"])
        if steps[-1] == 4:
            is_fifth.set()
        thread = runner.folder._writer._thread
        if thread is not None:
            thread.join()
        return make(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", no_space_after_the_first)
    monkeypatch.setattr(runner.maker, "measure", slowly)
    with pytest.raises(VideoLlamaError, match="No space left on device"):
        runner.train()
    assert [path.name for path in complete_checkpoints(tmp_path / "checkpoints")] == [
        "step_0000002"
    ]
    # The second save is after step 4; beside the training it fails while the fifth is made.
    assert steps[-1] == (4 if async_save else 3)
    assert not list((tmp_path / "checkpoints").glob(".partial*"))


def test_a_checkpoint_says_what_wrote_it(tmp_path):
    build(config_of(tmp_path), ALONE).train()
    state = read_state(complete_checkpoints(tmp_path / "checkpoints")[-1])
    assert state.written_by["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert state.num_ranks == 1


def test_the_commit_is_told_and_whether_files_differ_from_it(tmp_path):
    def git(*words):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_state(tmp_path) == {}
    git("init")
    (tmp_path / "a.txt").write_text("a")
    git("add", "a.txt")
    git("commit", "-m", "a")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "is_dirty": False}
    (tmp_path / "a.txt").write_text("b")
    assert git_state(tmp_path)["is_dirty"]


def test_packages_that_are_not_there_have_no_version(monkeypatch):
    monkeypatch.setattr("video_llama.runners.provenance.PACKAGES", ("no-such-package", "torch"))
    assert set(written_by()["versions"]) >= {"video_llama", "python", "torch"}
    assert "no-such-package" not in written_by()["versions"]
