"""An epoch of one pass over the data, and a warm-up that is a share of the run."""

from __future__ import annotations

import logging

import pytest
import torch
import yaml
from apps.tiny_project import NUM_CLIPS, write_project
from runners.tiny_run import config_of
from transformers import get_cosine_schedule_with_warmup

from video_llama.apps.main import main
from video_llama.apps.train import train
from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.common.schema import Config, DatasetEntry, RunConfig
from video_llama.runners.checkpoint import RunState
from video_llama.runners.epochs import num_steps, settle_epochs, steps_per_epoch
from video_llama.runners.ledger import read_entry
from video_llama.runners.optim import LearningRate


def settle(config, *, sizes, batch, state=None):
    entries = {
        name: DatasetEntry("webvid", None, split="valid" if name == "held_out" else "train")
        for name in sizes
    }
    config = Config(config.model, entries, config.run)
    readers = {name: range(size) for name, size in sizes.items()}
    return settle_epochs(config, readers=readers, global_batch_size=batch, state=state)


def auto(tmp_path, **keys):
    return config_of(tmp_path, iters_per_epoch="auto", **keys)


@pytest.mark.parametrize(
    ("sizes", "batch", "steps"),
    # By hand: 765,000 samples at 128 are 5976.6 batches; sets add up, held-out ones do not count.
    [
        ({"a": 765_000}, 128, 5977),
        ({"a": 7, "b": 5, "held_out": 100}, 4, 3),
        ({"a": 8}, 4, 2),
        ({"a": 3}, 4, 1),
    ],
)
def test_a_pass_takes_as_many_steps_as_it_needs_to_see_every_sample(tmp_path, sizes, batch, steps):
    config = settle(auto(tmp_path, max_epoch=2, accum_grad_iters=2), sizes=sizes, batch=batch)
    assert steps_per_epoch(config.run) == steps
    assert num_steps(config.run) == 2 * steps
    assert config.run.iters_per_epoch == 2 * steps


def test_a_number_of_iterations_stays_what_it_is(tmp_path):
    config = config_of(tmp_path, iters_per_epoch=6)
    assert settle_epochs(config, readers={}, global_batch_size=4) is config


def test_a_run_that_goes_on_keeps_the_length_it_was_begun_with(tmp_path, caplog):
    state = RunState(step=1, steps_per_epoch=5, global_batch_size=4, config={})
    with caplog.at_level(logging.WARNING, logger="video_llama"):
        config = settle(auto(tmp_path), sizes={"a": 100}, batch=4, state=state)
    assert steps_per_epoch(config.run) == 5
    assert "begun with epochs of 5 steps" in caplog.text


def test_nobody_counts_steps_before_the_data_are_counted(tmp_path):
    with pytest.raises(ConfigError, match="auto is one pass over the data"):
        num_steps(auto(tmp_path).run)


@pytest.mark.parametrize(("ratio", "steps"), [(0.03, 100), (0.03, 5977), (0.5, 7), (0.0, 10)])
def test_a_warm_up_by_ratio_and_the_cosine_are_those_of_transformers(ratio, steps):
    run = RunConfig("t", "out", init_lr=2e-5, warmup_ratio=ratio, iters_per_epoch=steps)
    ours = LearningRate(run, compat="corrected")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-5)
    # TrainingArguments.get_warmup_steps rounds up.
    warmup = -(-int(round(ratio * 100)) * steps // 100)
    theirs = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    factor = theirs.lr_lambdas[0]
    assert [ours(step) for step in range(steps)] == pytest.approx(
        [2e-5 * factor(step) for step in range(steps)], abs=1e-18
    )


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"warmup_ratio": 1.0}, "warmup_ratio must be at least 0 and below 1, found 1.0"),
        ({"warmup_ratio": -0.1}, "found -0.1"),
        ({"warmup_ratio": 0.1, "warmup_steps": 5}, "two lengths of one warm-up; keep one"),
    ],
)
def test_a_warm_up_that_cannot_be_is_refused(keys, words):
    with pytest.raises(ConfigError, match=words):
        RunConfig("t", "out", **keys)


@pytest.mark.slow
def test_a_run_of_one_pass_sees_every_sample_once_stops_and_goes_on(tmp_path, capsys):
    path = write_project(tmp_path, streams=("video",))
    tree = yaml.safe_load(path.read_text())
    tree["model"]["branches"]["audio"] = None
    tree["run"] |= {"iters_per_epoch": "auto", "batch_size_train": 2, "accum_grad_iters": 2}
    path.write_text(yaml.safe_dump(tree))
    summary = train(load(path))
    assert (summary.state.step, summary.num_steps) == (NUM_CLIPS // 4, NUM_CLIPS // 4)
    plan = ["plan", "--cfg-path", str(path), "--options", "run.zero=null"]
    assert main(plan) in (0, 2)
    assert f"{NUM_CLIPS // 4} optimizer steps of" in capsys.readouterr().out
    assert main(["replay", "--run", str(tmp_path / "out"), "--step", "2"]) == 0
    assert "step 2" in capsys.readouterr().out
    keys = [s.trace.key for step in (1, 2) for s in read_entry(tmp_path / "out", step=step).samples]
    assert len(keys) == len(set(keys)) == NUM_CLIPS
    # Finished is finished, also where the data are gone; halfway it goes on at another layout.
    (tmp_path / "clips.csv").rename(tmp_path / "away.csv")
    assert train(load(path)).state.step == 2
    assert main([*plan, "run.task=video_text_pretrain"]) == 2
    assert "how many make one pass over the data" in capsys.readouterr().out
    (tmp_path / "away.csv").rename(tmp_path / "clips.csv")
    half = tmp_path / "half"
    options = ["run.max_epoch=1", "run.batch_size_train=4", "run.accum_grad_iters=1"]
    options += [f"run.output_dir={half}", "run.save_freq='1 steps'"]
    assert train(load(path, options=options)).num_steps == 2
    (half / "checkpoints" / "step_0000002").rename(tmp_path / "set_aside")
    again = [*options[:1], *options[3:], "run.resume_ckpt_path=auto"]
    assert train(load(path, options=again)).state.step == 2
