import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import LENGTHS, TinyDataset, TinyModel, build, config_of

from video_llama.common.dist import World
from video_llama.common.errors import VideoLlamaError
from video_llama.runners.metrics import read_lines
from video_llama.tasks.video_text_pretrain import VideoTextPretrain

ALONE = World()


def weights(folder, name="last"):
    return load_file(folder / "checkpoints" / name / "trainable.safetensors")


def moments(folder):
    return load_file(folder / "checkpoints" / "last" / "optimizer.safetensors")


def lines(folder, kind):
    shown = ("step", "loss", "lr", "grad_norm", "valid_loss")
    return [
        {name: record[name] for name in shown if name in record}
        for record in read_lines(folder / "metrics.jsonl")
        if record["kind"] == kind
    ]


def assert_equal_bits(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("accum", [1, 2])
@pytest.mark.parametrize("stop_before_step", [0, 1, 2, 5])
def test_stopped_and_resumed_equals_uninterrupted_to_the_bit(tmp_path, stop_before_step, accum):
    shape = {"accum_grad_iters": accum, "iters_per_epoch": 3 * accum}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert build(config_of(whole, **shape), ALONE).train().is_finished
    first = build(config_of(parts, **shape), ALONE, stop_before_step=stop_before_step).train()
    assert first.state.step == stop_before_step
    build(config_of(parts, resume_ckpt_path="auto", **shape), ALONE).train()
    assert_equal_bits(weights(whole), weights(parts))
    assert_equal_bits(moments(whole), moments(parts))
    assert lines(whole, "train") == lines(parts, "train")
    assert lines(whole, "valid") == lines(parts, "valid")


def test_dropout_matters_in_these_runs(tmp_path):
    build(config_of(tmp_path / "a"), ALONE).train()
    build(config_of(tmp_path / "b"), ALONE, dropout=0.0).train()
    assert not torch.equal(
        weights(tmp_path / "a")["bridge.weight"], weights(tmp_path / "b")["bridge.weight"]
    )


class SeedRecorder(VideoTextPretrain):
    """Notes the seed that each forward pass finds."""

    def __init__(self):
        self.seeds = []

    def train_step(self, model, batch):
        self.seeds.append(torch.initial_seed())
        return super().train_step(model, batch)


def test_every_forward_pass_on_every_rank_has_a_dropout_seed_of_its_own(tmp_path):
    seeds = []
    for rank in (0, 1):
        recorder = SeedRecorder()
        config = config_of(tmp_path / str(rank), accum_grad_iters=2)
        build(config, World(rank=rank), task=recorder).train()
        seeds += recorder.seeds
    assert len(seeds) == len(set(seeds)) == 2 * 8


def test_going_back_repeats_the_rest_and_sets_the_old_future_aside(tmp_path):
    build(config_of(tmp_path, keep_last=9, max_epoch=3), ALONE).train()
    before, lines_before = weights(tmp_path), lines(tmp_path, "train")
    checkpoints = tmp_path / "checkpoints"
    back = str(checkpoints / "step_0000004")
    build(config_of(tmp_path, max_epoch=3, resume_ckpt_path=back), ALONE).train()
    assert_equal_bits(before, weights(tmp_path))
    assert lines_before == lines(tmp_path, "train")
    assert (checkpoints / "superseded_step_0000008").is_dir()


def test_data_workers_change_nothing(tmp_path):
    for num_workers in (0, 2):
        build(config_of(tmp_path / str(num_workers), num_workers=num_workers), ALONE).train()
    assert_equal_bits(weights(tmp_path / "0"), weights(tmp_path / "2"))


@pytest.mark.parametrize(("batch_size", "accum"), [(2, 2), (1, 4)])
def test_accumulation_does_not_change_the_training(tmp_path, batch_size, accum):
    build(config_of(tmp_path / "whole"), ALONE, dropout=0.0).train()
    pieces = {
        "batch_size_train": batch_size,
        "accum_grad_iters": accum,
        "iters_per_epoch": 4 * accum,
    }
    build(config_of(tmp_path / "cut", **pieces), ALONE, dropout=0.0).train()
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "cut")[name], tensor, atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(
        lines(tmp_path / "cut", "train"), lines(tmp_path / "whole", "train"), strict=True
    ):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("compat", ["corrected", "released"])
def test_the_gradient_is_that_of_the_stated_loss(tmp_path, compat):
    shape = {"batch_size_train": 2, "accum_grad_iters": 2, "iters_per_epoch": 2, "max_epoch": 1}
    runner = build(config_of(tmp_path, compat=compat, **shape), ALONE, dropout=0.0)
    model = TinyModel(dropout=0.0)
    outputs = [model(loaded.batch) for loaded in runner.data.train_batches(0)]
    if compat == "corrected":
        num_targets = sum(output.num_targets for output in outputs)
        loss = sum(output.loss_sum for output in outputs) / num_targets
    else:
        # Published: the mean of every iteration, added up and not divided.
        loss = sum(output.loss_sum / output.num_targets for output in outputs)
    loss.backward()
    norm = math.sqrt(
        sum(float(p.grad.square().sum()) for p in model.parameters() if p.requires_grad)
    )
    runner.train()
    assert lines(tmp_path, "train")[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_the_counted_targets_are_those_of_the_model(tmp_path):
    runner = build(config_of(tmp_path), ALONE)
    for loaded in runner.data.train_batches(0):
        assert loaded.batch.num_targets == runner.model(loaded.batch).num_targets


def test_frozen_parts_stay_as_they_were(tmp_path):
    runner = build(config_of(tmp_path), ALONE)
    before = runner.model.encoder.weight.clone()
    runner.train()
    assert torch.equal(runner.model.encoder.weight, before)
    assert not any(name.startswith("encoder") for name in weights(tmp_path))


class Judged(VideoTextPretrain):
    """Gives out validation losses from a list."""

    def __init__(self, losses):
        self.losses = iter(losses)

    def evaluate(self, model, batches):
        list(batches)
        return {"valid_loss": next(self.losses)}


def test_the_best_checkpoint_outlives_newer_ones(tmp_path):
    losses = [3.0, 1.0, 2.0, math.nan, 1.5]
    config = config_of(tmp_path, max_epoch=5, keep_last=1)
    summary = build(config, ALONE, task=Judged(losses)).train()
    assert (summary.state.best_metric, summary.state.best_step) == (1.0, 8)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if not p.is_symlink())
    assert kept == ["step_0000008", "step_0000020"]
    assert (tmp_path / "checkpoints/best").resolve().name == "step_0000008"


def test_validation_and_saving_keep_their_own_cadence_and_both_end_the_run(tmp_path):
    task = Judged([1.0, 2.0])
    config = config_of(tmp_path, max_epoch=5, valid_freq=3, save_freq=2, keep_last=9)
    build(config, ALONE, task=task).train()
    assert [line["step"] for line in lines(tmp_path, "valid")] == [12, 20]
    steps = sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*"))
    assert [int(name[5:]) for name in steps] == [8, 12, 16, 20]


class Stopped(VideoTextPretrain):
    """Is asked to stop at the beginning of a validation."""

    def evaluate(self, model, batches):
        signal.raise_signal(signal.SIGTERM)
        return super().evaluate(model, batches)


def test_a_validation_that_was_left_is_made_up_for_even_at_another_cadence(tmp_path):
    first = build(config_of(tmp_path, max_epoch=3), ALONE, task=Stopped()).train()
    assert (first.state.step, first.state.validation_pending) == (4, True)
    config = config_of(tmp_path, max_epoch=3, valid_freq=3, resume_ckpt_path="auto")
    assert build(config, ALONE).train().is_finished
    assert [line["step"] for line in lines(tmp_path, "valid")] == [4, 12]


def test_a_validation_that_was_left_is_forgotten_where_nothing_is_validated_any_more(tmp_path):
    first = build(config_of(tmp_path, max_epoch=1), ALONE, task=Stopped()).train()
    assert (first.state.step, first.is_finished) == (4, False)
    config = config_of(tmp_path, max_epoch=1, resume_ckpt_path="auto")
    assert build(config, ALONE, has_valid=False).train().is_finished
    assert build(config, ALONE).folder.start.is_finished


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(tmp_path):
    runner = build(config_of(tmp_path), ALONE, dataset=TinyDataset(poisoned=["clips-3"]))
    with pytest.raises(VideoLlamaError, match="clips-3.*weights were not changed"):
        runner.train()
    assert all(torch.isfinite(parameter).all() for parameter in runner.model.parameters())


def test_skipped_samples_are_named_counted_and_survive_a_resume(tmp_path):
    broken = TinyDataset(broken=["clips-1", "talks-2"])
    config = config_of(tmp_path, max_skip_rate=1.0)
    build(config, ALONE, dataset=broken, stop_before_step=4).train()
    config = config_of(tmp_path, max_skip_rate=1.0, resume_ckpt_path="auto")
    summary = build(config, ALONE, dataset=broken).train()
    records = read_lines(tmp_path / "skipped.jsonl")
    assert {record["key"] for record in records} == {"clips-1", "talks-2"}
    for name, count in summary.state.num_skipped.items():
        assert count == sum(record["dataset"] == name for record in records)
    assert summary.is_finished


def test_a_run_from_another_ones_checkpoint_takes_its_record_over(tmp_path):
    broken = TinyDataset(broken=["clips-1", "talks-2"])
    first, second = tmp_path / "first", tmp_path / "second"
    config = config_of(first, max_skip_rate=1.0)
    build(config, ALONE, dataset=broken).train()
    start = str(first / "checkpoints" / "step_0000004")
    second.mkdir()
    (second / "skipped.jsonl").write_text("left by something else\n")
    config = config_of(second, max_skip_rate=1.0, resume_ckpt_path=start)
    summary = build(config, ALONE, dataset=broken).train()
    assert (second / "skipped.jsonl").read_text() == (first / "skipped.jsonl").read_text()
    assert sum(summary.state.num_skipped.values()) == len(read_lines(second / "skipped.jsonl"))


def test_too_many_skipped_samples_stop_the_run_with_a_list(tmp_path):
    every_clip = TinyDataset(broken=[f"clips-{index}" for index in range(7)])
    runner = build(config_of(tmp_path, max_epoch=9, max_skip_rate=0.1), ALONE, dataset=every_clip)
    with pytest.raises(VideoLlamaError, match=r"clips \d+\), more than run.max_skip_rate = 0.1"):
        runner.train()
    # Eleven are more than a tenth of the hundred samples that are needed to judge.
    assert runner.state.num_skipped["clips"] >= 11


def stopped_after_skips(folder, *, step):
    """Leave a run that met a broken clip, with a checkpoint of a step; return what it counted."""
    config = config_of(folder, max_epoch=20, max_skip_rate=1.0)
    broken = TinyDataset(broken=["clips-1"])
    counted = build(config, ALONE, dataset=broken, stop_before_step=step).train().state.num_skipped
    assert counted["clips"] > 0
    return counted


def test_skips_are_counted_anew_where_their_record_was_deleted(tmp_path):
    stopped_after_skips(tmp_path, step=40)
    (tmp_path / "skipped.jsonl").unlink()
    config = config_of(tmp_path, max_epoch=20, resume_ckpt_path="auto")
    summary = build(config, ALONE).train()
    assert (summary.state.num_skipped, summary.state.skips_since) == ({}, 40)


def test_the_share_of_skips_counted_anew_is_that_of_the_steps_since(tmp_path):
    stopped_after_skips(tmp_path, step=40)
    (tmp_path / "skipped.jsonl").unlink()
    config = config_of(tmp_path, max_epoch=20, max_skip_rate=0.1, resume_ckpt_path="auto")
    every_clip = TinyDataset(broken=[f"clips-{index}" for index in range(7)])
    runner = build(config, ALONE, dataset=every_clip)
    with pytest.raises(VideoLlamaError) as caught:
        runner.train()
    total = runner.state.num_skipped["clips"]
    num_seen = (runner.state.step - 40) * 4 + total
    assert f"{total} of {num_seen} samples could not be used" in str(caught.value)


def test_a_run_that_goes_on_with_its_record_counts_on(tmp_path):
    counted = stopped_after_skips(tmp_path, step=40)
    config = config_of(tmp_path, max_epoch=20, max_skip_rate=1.0, resume_ckpt_path="auto")
    state = build(config, ALONE).state
    assert (state.num_skipped, state.skips_since) == (counted, 0)


def test_the_number_of_samples_of_every_training_set_is_kept(tmp_path):
    build(config_of(tmp_path, max_epoch=1), ALONE).train()
    assert build(config_of(tmp_path, max_epoch=1), ALONE).folder.start.state.lengths == LENGTHS


def test_the_folder_explains_itself(tmp_path):
    build(config_of(tmp_path), ALONE).train()
    assert "init_lr: 0.05" in (tmp_path / "config.yaml").read_text()
    assert "saved" in (tmp_path / "log.txt").read_text()
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert {"step", "loss", "lr", "grad_norm", "tokens_per_s", "rss_gib"} <= record.keys()
