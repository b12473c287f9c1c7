"""The run section refuses what cannot work, all of it at once."""

from __future__ import annotations

import pytest

from video_llama.common.errors import ConfigError
from video_llama.common.run_checks import LEAST
from video_llama.common.schema import DatasetEntry, RunConfig
from video_llama.common.zero import Zero


def run(**keys):
    return RunConfig(task="video_text_pretrain", output_dir="out", **keys)


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_a_key_has_a_smallest_value(name, least):
    with pytest.raises(ConfigError, match=f"{name} must be at least {least}, found {least - 1}"):
        run(**{name: least - 1})


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {"iters_per_epoch": 5, "accum_grad_iters": 2},
            r"iters_per_epoch \(5\) must be a multiple",
        ),
        ({"init_lr": 1e-4, "min_lr": 1e-3}, r"min_lr \(0.001\) must lie between 0 and init_lr"),
        ({"init_lr": -1.0}, "must lie between 0 and init_lr"),
        ({"init_lr": float("nan")}, "must lie between 0 and init_lr"),
        ({"max_skip_rate": 5.0}, "max_skip_rate must lie in 0..1, found 5.0"),
        ({"beta2": 1.0}, "beta2 must lie between 0 and 1"),
        ({"lr_decay_rate": 0.0}, "lr_decay_rate must be above 0 and at most 1, found 0.0"),
        ({"lr_sched": "linear_warmup_step_lr"}, "'linear_warmup_step_lr' needs lr_decay_rate"),
        ({"grad_clip_norm": 0.0}, "grad_clip_norm must be above 0, found 0.0; null does not clip"),
        (
            {"compile": True, "engine": "deepspeed", "zero": Zero(stage=3)},
            "compile: true does not go with zero.stage: 3",
        ),
    ],
)
def test_values_that_cannot_work_are_refused(keys, text):
    with pytest.raises(ConfigError, match=text):
        run(**keys)


def test_all_values_that_cannot_work_are_named():
    with pytest.raises(ConfigError) as caught:
        run(max_epoch=0, log_freq=0, min_lr=1.0, max_skip_rate=2.0)
    assert len(caught.value.problems) == 4


def test_a_data_set_that_would_never_be_drawn_is_refused():
    with pytest.raises(ValueError, match="sample_ratio must be above 0, found 0"):
        DatasetEntry(type="webvid", config=None, sample_ratio=0)
