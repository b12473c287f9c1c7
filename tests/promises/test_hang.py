"""A run that hangs is found, says which rank the others wait for, and ends."""

import os
import re
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from video_llama.common.dist import COLLECTIVE_TIMEOUT
from video_llama.runners.metrics import read_lines
from video_llama.runners.watchdog import (
    EXIT_CODE,
    PHASES,
    Heartbeat,
    Place,
    Sighting,
    describe,
    group_timeout,
)

PROGRAM = Path(__file__).with_name("hanging_run.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[2])}
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.fixture(scope="module")
def hung(tmp_path_factory):
    """What a run that hung printed, and its folder."""
    out = tmp_path_factory.mktemp("hung")
    command = [sys.executable, *LAUNCHER, str(PROGRAM), str(out)]
    started_s = time.monotonic()
    process = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert process.returncode != 0
    return process.stderr, out, time.monotonic() - started_s


@pytest.mark.slow
def test_the_rank_that_did_not_come_is_named(hung):
    errors, _, _ = hung
    told = re.findall(
        r"rank 1 of 2 \(host \S+\) has not reached step 7, phase computing, part 0: "
        r"last seen \d+ s ago in step 7, phase reading data",
        errors,
    )
    # Once by each rank.
    assert len(told) == 2, errors


@pytest.mark.slow
def test_its_stack_shows_what_it_waits_for(hung):
    errors, _, _ = hung
    assert "in read_for_ever" in errors


@pytest.mark.slow
def test_it_ends_with_a_code_of_its_own_long_before_the_collective_would_fail(hung):
    errors, _, seconds = hung
    assert re.search(rf"exitcode\s*: {EXIT_CODE}\b", errors), errors
    assert timedelta(seconds=seconds) < COLLECTIVE_TIMEOUT / 10


@pytest.mark.slow
def test_a_long_validation_and_a_slow_disk_are_no_hang(hung):
    _, out, _ = hung
    lines = [(line["step"], line["kind"]) for line in read_lines(out / "metrics.jsonl")]
    assert lines[-3:] == [(4, "valid"), (5, "train"), (6, "train")]
    assert (out / "checkpoints/step_0000004").is_dir()


NOW_S = 1000.0
COMPUTING = Sighting(Place(step=6, phase="computing", host="b"), NOW_S - 10)
READING = Sighting(Place(step=6, phase="reading data", host="a"), NOW_S - 12)


def test_only_those_that_are_behind_are_named():
    text = describe({0: COMPUTING, 1: READING, 2: COMPUTING, 3: READING}, now_s=NOW_S)
    assert re.findall(r"rank (\d) of 4 \(host a\)", text) == ["1", "3"]
    assert "last seen 12 s ago in step 7, phase reading data" in text


def test_a_rank_that_never_came_is_named_as_such():
    text = describe({0: COMPUTING, 1: Sighting(Place(host="unknown"), NOW_S - 99)}, now_s=NOW_S)
    assert "rank 1 of 2" in text
    assert "99 s ago in phase starting, before the training loop" in text


def test_nobody_is_blamed_where_all_wait_for_the_network():
    text = describe({0: COMPUTING, 1: COMPUTING}, now_s=NOW_S)
    assert "all 2 ranks stand at the same place, step 7" in text
    assert "not reached" not in text


@pytest.mark.parametrize("phase", PHASES)
def test_a_later_step_is_further_whatever_is_done_there(phase):
    assert Place(step=7, phase=phase).order > COMPUTING.place.order


def test_only_the_first_step_of_a_process_has_time_to_compile():
    heartbeat = Heartbeat()
    patience = []
    for step in (40, 41):
        heartbeat.beat("reading data", step=step)
        heartbeat.beat("computing", step=step, part=1)
        patience.append(heartbeat.place.patience)
    assert patience == [PHASES["starting"], PHASES["computing"]]


@pytest.mark.parametrize("limit_s", [1.0, 600.0, 7200.0])
def test_a_collective_fails_by_itself_later_than_any_patience_ends(limit_s):
    assert group_timeout(limit_s).total_seconds() > max(PHASES.values()) * limit_s
