"""Steps that would do harm: what is left out, what stops a run, and what is written of it."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import LENGTHS, TinyDataset, build, config_of

from video_llama.common.dist import World
from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.common.schema import RunConfig
from video_llama.runners.bad_steps import NUM_JUDGED, NUM_REMEMBERED, StepJudge
from video_llama.runners.metrics import read_lines
from video_llama.runners.resume import MAY_CHANGE
from video_llama.runners.step import StepRecord

ALONE = World()
POISONED = TinyDataset(poisoned=["clips-3"])


def policy(**keys):
    return RunConfig(task="t", output_dir="o", **keys)


def a_step(loss=1.0, grad_norm=1.0, dataset="clips"):
    return StepRecord(
        step=7,
        dataset=dataset,
        lr=0.1,
        loss_sum=10 * loss,
        num_targets=10,
        num_tokens=20,
        num_samples=2,
        grad_norm=grad_norm,
    )


def a_judge(*, num_good=NUM_JUDGED, **keys):
    judge = StepJudge(policy(**keys), memory={})
    for _ in range(num_good):
        assert judge(a_step(), loss_scale=1).action == "make"
    return judge


@pytest.mark.parametrize("bad", [a_step(loss=math.nan), a_step(grad_norm=math.inf)])
@pytest.mark.parametrize("policy_word", ["stop", "skip"])
def test_what_is_not_finite_is_left_out_or_stops_the_run(bad, policy_word):
    assert a_judge(on_nan=policy_word)(bad, loss_scale=1).action == policy_word


def test_gradients_that_overflow_at_a_loss_scale_are_the_engines_affair():
    judge = a_judge(on_nan="stop")
    verdict = judge(a_step(grad_norm=math.inf), loss_scale=1024)
    assert (verdict.action, verdict.reason) == ("make", "gradients overflow at loss scale 1024")
    assert judge(a_step(loss=math.nan), loss_scale=1024).action == "stop"


@pytest.mark.parametrize(
    ("step", "action"),
    [
        (a_step(loss=2.9), "make"),
        (a_step(loss=3.1), "skip"),
        (a_step(grad_norm=8.9), "make"),
        (a_step(grad_norm=9.1), "skip"),
        (a_step(loss=99.0, dataset="talks"), "make"),
    ],
)
def test_a_spike_is_measured_by_the_median_of_its_own_data_set(step, action):
    assert a_judge(on_spike="skip", spike_factor=3.0)(step, loss_scale=1).action == action


def test_a_run_that_has_just_begun_has_no_spikes():
    judge = a_judge(on_spike="stop", num_good=NUM_JUDGED - 1)
    assert judge(a_step(loss=99.0), loss_scale=1).action == "make"


def test_spikes_are_ignored_unless_asked_for():
    assert a_judge()(a_step(loss=99.0), loss_scale=1).action == "make"


def test_a_loss_that_rises_slowly_is_no_spike():
    judge = a_judge(on_spike="stop", spike_factor=3.0)
    for index in range(20 * NUM_REMEMBERED):
        assert judge(a_step(loss=1.0 + index / NUM_REMEMBERED), loss_scale=1).action == "make"


def test_left_out_steps_do_not_move_the_median():
    judge = a_judge(on_spike="skip", max_bad_steps=999)
    for _ in range(NUM_REMEMBERED):
        assert judge(a_step(loss=99.0), loss_scale=1).action == "skip"


def test_too_many_bad_steps_in_a_row_stop_and_a_good_one_counts_anew():
    judge = a_judge(on_nan="skip", max_bad_steps=2)
    pattern = [math.nan, math.nan, 1.0, math.nan, math.nan, math.nan]
    actions = [judge(a_step(loss=loss), loss_scale=1).action for loss in pattern]
    assert actions == ["skip", "skip", "make", "skip", "skip", "stop"]


def test_a_judge_with_the_memory_of_another_judges_alike():
    first = a_judge(on_spike="skip", max_bad_steps=2)
    first(a_step(loss=99.0), loss_scale=1)
    memory = json.loads(json.dumps(first.memory))
    second = StepJudge(policy(on_spike="skip", max_bad_steps=2), memory=memory)
    for loss in (99.0, 2.9, 3.1, 99.0, 99.0):
        assert first(a_step(loss=loss), loss_scale=1) == second(a_step(loss=loss), loss_scale=1)


def test_a_factor_that_every_step_exceeds_is_refused():
    with pytest.raises(ConfigError, match="spike_factor must be above 1, found 1.0"):
        policy(spike_factor=1.0)


def test_a_run_that_skips_goes_on_and_names_the_bad_steps(tmp_path):
    config = config_of(tmp_path, on_nan="skip", max_epoch=4)
    summary = build(config, ALONE, dataset=POISONED).train()
    assert summary.is_finished
    bad = read_lines(tmp_path / "bad_steps.jsonl")
    assert bad
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines if "steps_left_out" in line] == [
        line["step"] for line in bad
    ]
    assert not any("loss" in line for line in lines if "steps_left_out" in line)
    for line in bad:
        assert (line["action"], line["loss"], line["dataset"]) == ("skip", None, "clips")
        assert [key for key, loss in line["samples"] if loss is None] == ["clips-3"]
        assert len(line["samples"]) == 4
    weights = load_file(tmp_path / "checkpoints/last/trainable.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_step_left_out_changes_neither_weights_nor_moments(tmp_path):
    runner = build(config_of(tmp_path, on_nan="skip"), ALONE, dataset=POISONED)
    seen = []
    apply = runner._apply

    def watch(record):
        before = [parameter.clone() for parameter in runner.model.parameters()]
        counts = [int(state["step"]) for state in runner.engine.optimizer.state.values()]
        record = apply(record)
        if record.is_left_out:
            assert counts == [int(s["step"]) for s in runner.engine.optimizer.state.values()]
            pairs = zip(before, runner.model.parameters(), strict=True)
            seen.append(all(torch.equal(old, new) for old, new in pairs))
        return record

    runner._apply = watch
    runner.train()
    assert seen
    assert all(seen)


def test_a_run_that_stops_says_which_samples_and_can_be_told_to_go_on(tmp_path):
    stopped = config_of(tmp_path, max_epoch=4)
    with pytest.raises(
        VideoLlamaError, match=r"step \d+: loss nan.*clips-3; the weights"
    ) as caught:
        build(stopped, ALONE, dataset=POISONED).train()
    step = read_lines(tmp_path / "bad_steps.jsonl")[0]["step"]
    assert f"`video-llama replay --run {tmp_path} --step {step}`" in str(caught.value)
    assert [line["action"] for line in read_lines(tmp_path / "bad_steps.jsonl")] == ["stop"]
    told = config_of(tmp_path, max_epoch=4, on_nan="skip", resume_ckpt_path="auto")
    assert build(told, ALONE, dataset=POISONED).train().is_finished


ALL_POISONED = TinyDataset(poisoned=[f"{name}-{i}" for name in LENGTHS for i in range(99)])


def advice_of(config):
    """What a run says that meets nothing but NaN, before and behind its word on going on."""
    with pytest.raises(VideoLlamaError, match="loss nan") as caught:
        build(config, ALONE, dataset=ALL_POISONED).train()
    return str(caught.value).split("run.resume_ckpt_path=auto")


def test_what_is_advised_for_going_on_may_change(tmp_path):
    going_on, _ = advice_of(config_of(tmp_path))
    assert set(re.findall(r"run\.[a-z_]+", going_on)) <= MAY_CHANGE


def test_without_a_checkpoint_another_setting_may_start_in_the_same_folder(tmp_path):
    _, other = advice_of(config_of(tmp_path))
    assert other == (
        ". A lower run.init_lr, another run.grad_clip_norm or run.precision may be had by starting "
        "anew in this folder"
    )
    assert build(config_of(tmp_path, init_lr=0.01), ALONE).train().is_finished


@pytest.mark.parametrize(("ckpt_2", "key"), [(None, "ckpt"), ("sound", "ckpt_2")])
def test_another_setting_starts_from_the_checkpoint_that_is_loaded_last(tmp_path, ckpt_2, key):
    build(config_of(tmp_path), ALONE, stop_before_step=2).train()
    config = config_of(tmp_path, resume_ckpt_path="auto")
    config = replace(config, model=replace(config.model, ckpt_2=ckpt_2))
    _, other = advice_of(config)
    assert other.endswith(f"take another run.output_dir, and model.{key}={tmp_path}")


def test_bad_steps_are_the_same_after_a_resume(tmp_path):
    keys = {"on_nan": "skip", "on_spike": "skip", "spike_factor": 1.02, "max_epoch": 12}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    build(config_of(whole, **keys), ALONE, dataset=POISONED).train()
    first = build(config_of(parts, **keys), ALONE, dataset=POISONED, stop_before_step=30)
    assert not first.train().is_finished
    again = config_of(parts, resume_ckpt_path="auto", **keys)
    build(again, ALONE, dataset=POISONED).train()
    bad = read_lines(whole / "bad_steps.jsonl")
    assert any("times the" in line["reason"] and line["step"] > 31 for line in bad)
    assert bad == read_lines(parts / "bad_steps.jsonl")
    ours, theirs = (
        load_file(path / "checkpoints/last/trainable.safetensors") for path in (whole, parts)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_record_is_not_changed_by_the_judge():
    record = a_step()
    a_judge()(record, loss_scale=1)
    assert record == replace(record)
