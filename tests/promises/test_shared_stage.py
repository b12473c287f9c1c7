"""Promise: two ranks learn a stage that two branches share as one does, whatever they are shown.

There are steps in which one branch or both have nothing, on one rank or on both.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from models.tiny_shared import build
from promises.launch import as_torchrun, run_ranks
from promises.shared_stage_worker import ENGINES, STAGES, learn, run_engines
from safetensors.torch import load_file

from video_llama.common.dist import World
from video_llama.common.schema import RunConfig

pytestmark = pytest.mark.slow
SHARED = "branches.image.stages.projection.linear.weight"


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """What two ranks learned, by engine and kind of stage."""
    folder = tmp_path_factory.mktemp("shared")
    run_ranks(partial(run_engines, folder), worlds=as_torchrun(2), logs=folder / "logs")
    return {path.stem: load_file(path) for path in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def alone():
    """What one process learns from the batches of both."""
    run = RunConfig("", "", grad_clip_norm=None)
    return {
        name: learn([0, 1], world=World(), learns=learns, run=run)
        for name, learns in STAGES.items()
    }


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_learn_what_one_learns(engine, stage, learned, alone):
    ours, theirs = learned[f"{engine}_{stage}"], alone[stage]
    assert ours.keys() == theirs.keys()
    assert (SHARED in ours) == STAGES[stage]
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-5, rtol=0, msg=name)


def test_the_shared_stage_did_learn(alone):
    before = build().state_dict()[SHARED]
    assert (alone["learning"][SHARED] - before).abs().max() > 0.01
