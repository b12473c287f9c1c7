"""Promise: five hundred hostile inputs meet a clear refusal or an answer, and harm nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from promises.hostile_inputs import NUM_INPUTS
from promises.launch import lines_within

pytestmark = pytest.mark.slow

LIMIT_S = 120
"""Of silence, on the clock of a busy machine."""

LIMIT_MEMORY_MB = 400
"""What a megabyte of text may leave behind in a process that has a model loaded."""

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Talk:
    """What the process said.

    Attributes:
        before: how things were when nobody hostile had come.
        after: what was handed over, what became of it, and how things were then.
        ended: what was at work when the process ended or hung, None if it did neither.
    """

    before: dict[str, Any]
    after: list[dict[str, Any]]
    ended: str | None


@pytest.fixture(scope="module")
def talk(tmp_path_factory) -> Talk:
    folder, temporary = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("temporary")
    inside = folder / "inside" / "nothing"
    inside.mkdir(parents=True)
    paths = [REPOSITORY, REPOSITORY / "tests", REPOSITORY / "tests" / "processors"]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(temporary),
    }
    command = [sys.executable, "-X", "faulthandler", "-m", "promises.talk_to_strangers"]
    with subprocess.Popen(
        [*command, str(folder), "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # What "." and ".." are must not depend on where the tests are run.
        cwd=inside,
        env=environ,
    ) as process:
        said = heard(process)
    before, *rest = said
    after = [one | other for one, other in zip(rest[::2], rest[1::2], strict=False)]
    ended = rest[-1]["name"] if len(rest) % 2 else None
    return Talk(before, after, ended)


def heard(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Read what a process says, until it ends or is silent for too long."""
    said = []
    try:
        for line in lines_within(process.stdout, LIMIT_S):
            said.append(json.loads(line))
    except TimeoutError:
        process.kill()
    return said


def test_the_process_survives_them_all(talk):
    assert talk.ended is None
    assert [done["number"] for done in talk.after] == list(range(NUM_INPUTS))


def test_each_is_answered_or_refused_with_a_reason_for_people(talk):
    odd = {
        done["name"]: done["outcome"]
        for done in talk.after
        if done["outcome"] != "served" and not done["outcome"].startswith("refused: ")
    }
    assert not odd
    outcomes = Counter(done["outcome"].split(":")[0] for done in talk.after)
    assert min(outcomes["served"], outcomes["refused"]) > NUM_INPUTS // 4


def test_what_must_not_be_served_is_refused(talk):
    demanded = [done for done in talk.after if done["may_be"]]
    assert len(demanded) > 100
    assert not [
        (done["name"], done["outcome"])
        for done in demanded
        if done["outcome"].split(":")[0] != done["may_be"]
    ]


def test_none_takes_longer_than_the_time_limit(talk):
    slowest = max(talk.after, key=lambda done: done["taken_s"])
    assert slowest["taken_s"] < 60, slowest["name"]


def test_whoever_comes_next_gets_the_answer_they_would_have_got(talk):
    assert talk.before["answer"]
    wrong = [done["name"] for done in talk.after if done["answer"] != talk.before["answer"]]
    assert not wrong


@pytest.mark.parametrize("what", ["num_open", "num_processes", "left"])
def test_no_files_processes_or_temporary_files_stay_behind(talk, what):
    more = [done["name"] for done in talk.after if done[what] != talk.before[what]]
    assert not more


def test_memory_does_not_grow(talk):
    grown = max(talk.after, key=lambda done: done["memory_mb"])
    assert grown["memory_mb"] - talk.before["memory_mb"] < LIMIT_MEMORY_MB, grown["name"]
