"""LAVIS's `run.amp` beside `run.precision`."""

from __future__ import annotations

import pytest

from video_llama.common.sections import translate_amp


@pytest.mark.parametrize(
    ("run", "translated"),
    [
        ({"amp": True}, {"precision": "bf16"}),
        ({"amp": False}, {"precision": "fp32"}),
        ({"precision": "fp16"}, {"precision": "fp16"}),
        ({"amp": True, "precision": "fp16"}, {"precision": "fp16"}),
        ({"amp": True, "precision": "bf16"}, {"precision": "bf16"}),
        ({"amp": False, "precision": "fp32"}, {"precision": "fp32"}),
        ({"seed": 1}, {"seed": 1}),
    ],
)
def test_amp_becomes_the_precision_it_means(run, translated):
    before, problems = dict(run), []
    assert translate_amp(run, problems) == translated
    assert not problems
    assert run == before


@pytest.mark.parametrize(("amp", "precision"), [(True, "fp32"), (False, "bf16"), (False, "fp16")])
def test_amp_and_precision_that_contradict_each_other_are_named(amp, precision):
    problems = []
    translate_amp({"amp": amp, "precision": precision}, problems)
    said = f"run.amp: {str(amp).lower()} contradicts run.precision: {precision}; leave amp out"
    assert problems == [f"{said}, precision says it all"]


@pytest.mark.parametrize("amp", [1, "true", None])
def test_amp_is_true_or_false(amp):
    problems = []
    translate_amp({"amp": amp}, problems)
    assert problems == [f"run.amp: expected true or false, found {amp!r}"]
