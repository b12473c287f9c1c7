"""LAVIS's `run.amp` beside `run.precision`; sections that are written and read again."""

from __future__ import annotations

import pytest

from video_llama.common.config import load_preset
from video_llama.common.sections import model_section, parse_model, translate_amp


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


def test_how_a_part_learns_is_written_and_read_again():
    options = [
        "model.decoder.trainable=true",
        "model.decoder.lr=2e-5",
        "model.decoder.gradient_checkpointing=true",
        "model.branches.video.stages.video_qformer.gradient_checkpointing=true",
    ]
    config = load_preset("video_llama", "toy", options=options)
    section, problems = model_section(config), []
    assert (section["decoder"]["lr"], section["decoder"]["gradient_checkpointing"]) == (2e-5, True)
    assert parse_model(section, preset_keys=set(config.paths), problems=problems) == config
    assert not problems
