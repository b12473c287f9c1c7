"""Promise: a run that is asked to stop saves, ends with 0 within seconds, and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from promises.launch import LIMIT_S, as_torchrun, finish, run_ranks, start_ranks
from promises.small_project import write_project
from promises.unlucky import add_up_and_stop, notes, train
from safetensors.torch import load_file

from video_llama.runners.checkpoint import read_state
from video_llama.runners.metrics import read_lines
from video_llama.runners.retention import newest_whole

pytestmark = pytest.mark.slow

SHAPE = {"accum_grad_iters": 2, "batch_size_train": 2, "iters_per_epoch": 6, "max_epoch": 3}
TWO_RANKS = {**SHAPE, "batch_size_train": 1}
GRACE_S = 25.0
"""Less than the 30 s after which torchrun kills, on a busy machine too."""


def alone():
    return [{}]


def two():
    return as_torchrun(2)


def saved_step(out):
    return read_state(newest_whole(out / "checkpoints")).step


def wait_for(path, ranks=()):
    deadline = time.monotonic() + LIMIT_S
    while not path.exists():
        assert time.monotonic() < deadline
        assert all(rank.is_alive() for rank in ranks)
        time.sleep(0.02)


def assert_same_run(ours, theirs):
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        left, right = (load_file(run / "checkpoints" / "last" / file) for run in (ours, theirs))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    left, right = (
        [(line["step"], line["kind"], line.get("loss"), line.get("valid_loss")) for line in lines]
        for lines in (read_lines(run / "metrics.jsonl") for run in (ours, theirs))
    )
    assert left == right


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs nobody stopped, by number of ranks."""
    folders = {}
    for worlds, shape in ((alone(), SHAPE), (two(), TWO_RANKS)):
        out = folders[len(worlds)] = tmp_path_factory.mktemp(f"whole{len(worlds)}")
        run_ranks(partial(train, out, changes=shape), worlds=worlds, logs=out / "logs")
    return folders


PLACES = {
    # Two passes make a step; nine batches of training make a validation of three due.
    "in the first pass of a step": ({"kind": "train", "at": 4}, 2),
    "in the last pass of a step": ({"kind": "train", "at": 5}, 3),
    "in a validation": ({"kind": "valid", "at": 1}, 3),
    "in the last validation": ({"kind": "valid", "at": 7}, 9),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_one_process_stops_wherever_it_is_and_goes_on_to_the_bit(whole, tmp_path, place, number):
    trigger, step = PLACES[place]
    trigger = {**trigger, "number": number}
    run_ranks(
        partial(train, tmp_path, changes=SHAPE, trigger=trigger),
        worlds=alone(),
        logs=tmp_path / "1",
    )
    assert saved_step(tmp_path) == step
    run_ranks(partial(train, tmp_path, changes=SHAPE), worlds=alone(), logs=tmp_path / "2")
    assert_same_run(tmp_path, whole[1])


@pytest.mark.parametrize("place", PLACES)
def test_two_ranks_stop_together_when_one_is_asked(whole, tmp_path, place):
    trigger, step = PLACES[place]
    # A rank has two batches of a validation, or one.
    trigger = {**trigger, "number": signal.SIGTERM, "at": {1: 1, 7: 5}.get(trigger["at"], 4)}
    if place == "in the last pass of a step":
        trigger["at"] = 5
    work = partial(train, tmp_path, changes=TWO_RANKS, trigger=trigger, only_rank=0)
    run_ranks(work, worlds=two(), logs=tmp_path / "1")
    assert saved_step(tmp_path) == step
    run_ranks(partial(train, tmp_path, changes=TWO_RANKS), worlds=two(), logs=tmp_path / "2")
    assert_same_run(tmp_path, whole[2])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_waiting_for_data_ends_within_seconds(tmp_path, num_workers):
    changes = {**SHAPE, "num_workers": num_workers, "save_freq": "1 steps"}
    work = partial(train, tmp_path, changes=changes, stuck_on="clips-5")
    ranks = start_ranks(work, worlds=alone(), logs=tmp_path / "logs")
    wait_for(tmp_path / "checkpoints" / "last", ranks)
    wait_for(tmp_path / "stuck", ranks)
    started_s = time.monotonic()
    os.kill(ranks[0].pid, signal.SIGTERM)
    assert finish(ranks) == [0]
    assert time.monotonic() - started_s < GRACE_S
    assert saved_step(tmp_path) > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_data_workers_that_get_the_signal_too_do_not_spoil_the_step(tmp_path, number):
    trigger = {"kind": "train", "at": 5, "number": number, "to_group": True}
    work = partial(train, tmp_path, changes={**SHAPE, "num_workers": 2}, trigger=trigger)
    run_ranks(work, worlds=alone(), logs=tmp_path / "logs")
    assert saved_step(tmp_path) == 3


def test_a_rank_that_waits_for_data_takes_the_others_along(tmp_path):
    changes = {**TWO_RANKS, "save_freq": "1 steps"}
    work = partial(train, tmp_path, changes=changes, stuck_on="clips-5", only_rank=1)
    ranks = start_ranks(work, worlds=two(), logs=tmp_path / "logs")
    wait_for(tmp_path / "stuck", ranks)
    started_s = time.monotonic()
    os.kill(ranks[1].pid, signal.SIGUSR1)
    assert finish(ranks) == [0, 0]
    assert time.monotonic() - started_s < GRACE_S


def test_a_rank_leaves_no_step_in_which_another_has_begun_to_compute(whole, tmp_path):
    """In its second forward pass DDP waits for the other ranks, which may be gone."""
    # The first batch with it is in rank 1's second step.
    work = partial(train, tmp_path, changes=TWO_RANKS, stuck_on="talks-1", only_rank=1)
    ranks = start_ranks(work, worlds=two(), logs=tmp_path / "1")
    wait_for(tmp_path / "stuck", ranks)
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert finish(ranks) == [0, 0]
    assert saved_step(tmp_path) == 1
    assert [len(notes(tmp_path, rank)) for rank in (0, 1)] == [2, 2]
    run_ranks(partial(train, tmp_path, changes=TWO_RANKS), worlds=two(), logs=tmp_path / "2")
    assert_same_run(tmp_path, whole[2])


def test_ranks_add_up_whole_numbers_exactly_until_one_is_asked_to_stop(tmp_path):
    run_ranks(partial(add_up_and_stop, tmp_path), worlds=two(), logs=tmp_path / "logs")
    sums = [json.loads((tmp_path / f"sums_{rank}.json").read_text()) for rank in (0, 1)]
    # Beyond what float64 holds.
    assert sums == [[2**61 + 1, None]] * 2


def test_a_request_that_comes_twice_is_one(tmp_path):
    trigger = {"kind": "train", "at": 4, "number": signal.SIGTERM, "times": 3}
    work = partial(train, tmp_path, changes=SHAPE, trigger=trigger)
    run_ranks(work, worlds=alone(), logs=tmp_path / "logs")
    assert saved_step(tmp_path) == 2


def test_a_second_request_ends_at_once(tmp_path):
    trigger = {"kind": "train", "at": 4, "number": signal.SIGTERM, "times": 2}
    work = partial(train, tmp_path, changes=SHAPE, trigger=trigger, repeat_s=0.0)
    ranks = start_ranks(work, worlds=alone(), logs=tmp_path / "logs")
    assert finish(ranks) == [-signal.SIGTERM]


PROGRAM = """
import os, sys
from pathlib import Path
from video_llama.apps.main import main
code = main(sys.argv[2:])
Path(sys.argv[1], f"code_{os.environ['RANK']}").write_text(str(code))
"""


def test_torchrun_hands_the_request_on_and_its_ranks_end_with_0(tmp_path):
    """It sends the signal to the data workers as well, which belong to the groups of the ranks."""
    program, out = tmp_path / "program.py", tmp_path / "out"
    program.write_text(PROGRAM)
    run_file = write_project(tmp_path, iters=400_000, batch_size=2)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = ["train", "--cfg-path", str(run_file), "--options", "run.task=video_text_pretrain"]
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests.parent, tests)))
    process = subprocess.Popen(
        [sys.executable, *launcher, str(program), str(tmp_path), *words, "run.num_workers=1"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not read_lines(out / "metrics.jsonl"):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    started_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert time.monotonic() - started_s < GRACE_S
    codes = [tmp_path / f"code_{rank}" for rank in (0, 1)]
    assert all(path.exists() and path.read_text() == "0" for path in codes), errors
    assert saved_step(out) == read_lines(out / "metrics.jsonl")[-1]["step"]
