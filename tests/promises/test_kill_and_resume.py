"""Promise: a run that is killed again and again equals one that was not, to the bit."""

from __future__ import annotations

import json
import random
import signal
from functools import partial

import pytest
import torch
from promises.launch import as_torchrun, finish, run_ranks, start_ranks
from promises.unlucky import notes, train
from safetensors.torch import load_file

from video_llama.runners.checkpoint import read_state
from video_llama.runners.metrics import read_lines

pytestmark = pytest.mark.slow

NUM_KILLS = 10
SHAPE = {
    "accum_grad_iters": 2,
    "batch_size_train": 2,
    "iters_per_epoch": 10,
    "max_epoch": 12,
    "save_freq": "3 steps",
    # Lines that sum up steps before and after a kill.
    "log_freq": 4,
}
TIMINGS = ("_per_s", "_gib", "_share", "_s", "mfu")


def kill_places():
    """Before which forward pass of its own each process is killed: some inside an accumulation,
    some in a validation, others in the first pass of a step."""
    draw = random.Random(5)
    places = [{"kind": "train", "at": draw.randint(2, 11)} for _ in range(NUM_KILLS - 2)]
    assert {place["at"] % SHAPE["accum_grad_iters"] for place in places} == {0, 1}
    places += [{"kind": "valid", "at": draw.randint(0, 2)} for _ in range(2)]
    draw.shuffle(places)
    return places


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    run_ranks(partial(train, out, changes=SHAPE), worlds=[{}], logs=out / "logs")
    return out


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    out = tmp_path_factory.mktemp("killed")
    for index, place in enumerate(kill_places()):
        changes = {**SHAPE, "num_workers": index % 2}
        work = partial(train, out, changes=changes, trigger=place)
        assert finish(start_ranks(work, worlds=[{}], logs=out / f"logs{index}")) == [
            -signal.SIGKILL
        ]
    run_ranks(partial(train, out, changes=SHAPE), worlds=[{}], logs=out / "logs")
    return out


def assert_equal_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("file", ["trainable.safetensors", "optimizer.safetensors"])
def test_parameters_and_moments_are_equal(whole, killed, file):
    ours, theirs = (load_file(run / "checkpoints" / "last" / file) for run in (killed, whole))
    assert theirs
    assert_equal_bits(ours, theirs)


def without_timings(line):
    return {name: value for name, value in line.items() if not name.endswith(TIMINGS)}


def test_losses_rates_norms_and_counts_are_equal_line_by_line(whole, killed):
    ours, theirs = (
        [without_timings(line) for line in read_lines(run / "metrics.jsonl")]
        for run in (killed, whole)
    )
    assert {"loss", "lr", "grad_norm"} <= theirs[0].keys()
    assert [line["kind"] for line in theirs].count("valid") == SHAPE["max_epoch"]
    assert ours == theirs


def test_the_same_samples_were_left_out(whole, killed):
    text = (whole / "skipped.jsonl").read_text()
    assert text
    assert (killed / "skipped.jsonl").read_text() == text


def test_every_pass_saw_the_same_samples_and_had_the_same_loss_each_time_it_was_made(whole, killed):
    theirs = {note["seed"]: note for note in notes(whole)}
    assert len(theirs) == SHAPE["max_epoch"] * SHAPE["iters_per_epoch"]
    ours = notes(killed)
    assert len(ours) > len(theirs)
    assert {note["seed"] for note in ours} == set(theirs)
    assert all(note == theirs[note["seed"]] for note in ours)


def test_where_the_run_stands_is_equal(whole, killed):
    ours, theirs = (read_state(run / "checkpoints" / "last") for run in (killed, whole))
    assert theirs.num_skipped
    assert theirs.best_step
    for name in ("step", "best_metric", "best_step", "num_skipped", "global_batch_size", "judge"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_two_ranks_of_which_one_is_killed_go_on_to_the_bit(tmp_path):
    shape = {**SHAPE, "batch_size_train": 1, "max_epoch": 2}
    for name, at in (("parts", 13), ("whole", None)):
        out = tmp_path / name
        for part, place in enumerate([at, None] if at else [None]):
            work = partial(train, out, changes=shape, trigger={"at": place}, only_rank=1)
            ranks = start_ranks(work, worlds=as_torchrun(2), logs=out / f"logs{part}")
            if place is not None:
                # What torchrun does when one is gone.
                ranks[1].join()
                ranks[0].kill()
            codes = finish(ranks)
            assert codes == ([-signal.SIGKILL] * 2 if place is not None else [0, 0])
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        ours, theirs = (
            load_file(tmp_path / name / "checkpoints" / "last" / file)
            for name in ("parts", "whole")
        )
        assert_equal_bits(ours, theirs)
    lines = [
        json.dumps(
            [without_timings(line) for line in read_lines(tmp_path / name / "metrics.jsonl")]
        )
        for name in ("parts", "whole")
    ]
    assert lines[0] == lines[1]
