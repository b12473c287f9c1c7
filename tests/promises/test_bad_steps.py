"""Ranks decide alike about steps that would do harm, and as one process would."""

from functools import partial

import pytest
from promises.launch import as_torchrun, run_ranks
from promises.poisoned_run import train

from video_llama.runners.metrics import read_lines

pytestmark = pytest.mark.slow


def told_in(folder):
    """Return the bad steps with what kind of step it was and the samples that are to blame."""
    return [
        (
            line["step"],
            line["reason"].split()[0],
            sorted(k for k, v in line["samples"] if v is None),
        )
        for line in read_lines(folder / "bad_steps.jsonl")
    ]


def test_two_ranks_leave_out_the_steps_that_one_leaves_out(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(one)
    run_ranks(
        partial(train, two, batch_size_train=2), worlds=as_torchrun(2), logs=tmp_path / "logs"
    )
    bad = told_in(one)
    assert ["clips-3"] in [keys for _, _, keys in bad]
    assert [] in [keys for _, _, keys in bad]
    assert told_in(two) == bad
    assert read_lines(two / "metrics.jsonl")[-1]["step"] == 48
