"""A run that groups by length: pure steps, counted once, the same after a stop and in a replay."""

from __future__ import annotations

import json

import pytest
import yaml
from apps.tiny_project import NUM_CLIPS, write_project

from video_llama.apps.replay import build_replay
from video_llama.apps.train import train
from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.common.schema import RunConfig
from video_llama.runners import lengths
from video_llama.runners.ledger import read_entry
from video_llama.runners.replay import find_start

NUM_STEPS = 4
"""Of 8 clips and 8 texts, 4 samples a step."""


def write_rows(path):
    rows = []
    for number in range(NUM_CLIPS):
        question = "why " * (number + 1)
        said = [{"from": "human", "value": question}, {"from": "gpt", "value": "so"}]
        rows.append({"id": f"text{number}", "conversations": said})
        said = [{"from": "human", "value": f"<video>{question}"}, {"from": "gpt", "value": "so"}]
        clip = {"id": f"clip{number}", "video": f"page/{number}.mp4", "conversations": said}
        rows.append(clip)
    path.write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grouped")
    path = write_project(folder, streams=("video",))
    write_rows(folder / "rows.json")
    tree = yaml.safe_load(path.read_text())
    tree["model"]["branches"]["audio"] = None
    (entry,) = tree["datasets"].values()
    media = entry["media"]
    tree["datasets"] = {
        "tune": {
            "type": "llava_conversations",
            "annotations": str(folder / "rows.json"),
            "media": media,
        }
    }
    tree["run"] |= {
        "iters_per_epoch": 2 * NUM_STEPS,
        "batch_size_train": 2,
        "accum_grad_iters": 2,
        "num_workers": 0,
        "group_by_length": True,
        "save_freq": "1 steps",
        "keep_last": 9,
        "feature_cache": str(folder / "cache"),
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def keys_of(folder):
    """Samples of every step, in the order of the run."""
    return [
        [sample.trace.key for sample in read_entry(folder, step=step).samples]
        for step in range(1, NUM_STEPS + 1)
    ]


@pytest.fixture(scope="module")
def whole(run_file):
    """The folder of a run that nothing interrupted."""
    folder = run_file.parent / "out"
    assert train(load(run_file)).state.step == NUM_STEPS
    return folder


def test_steps_are_of_clips_or_of_text_and_see_every_sample_once(whole):
    steps = keys_of(whole)
    assert all(len({key[:4] for key in step}) == 1 for step in steps)
    assert len({key for step in steps for key in step}) == 2 * NUM_CLIPS


def test_samples_of_a_step_stand_by_falling_length(whole):
    # Row number n has n + 1 words.
    for step in keys_of(whole):
        numbers = [int(key[4:]) for key in step]
        assert numbers == sorted(numbers, reverse=True)


def test_lengths_are_kept_beside_the_features_and_not_counted_again(run_file, whole, monkeypatch):
    (file,) = (run_file.parent / "cache" / "lengths").iterdir()
    assert file.name.startswith("tune-")

    def refuse(*_args, **_kwargs):
        raise AssertionError("lengths were counted again")

    monkeypatch.setattr("video_llama.datasets.length_files.count_lengths", refuse)
    again = run_file.parent / "again"
    train(load(run_file, options=[f"run.output_dir={again}"]))
    assert keys_of(again) == keys_of(whole)


def test_a_run_that_goes_on_at_another_layout_sees_the_same_order(run_file, whole, tmp_path):
    half = tmp_path / "half"
    options = [f"run.output_dir={half}"]
    train(load(run_file, options=options))
    for step in (3, 4):
        (half / "checkpoints" / f"step_{step:07}").rename(tmp_path / f"aside{step}")
    options += ["run.batch_size_train=4", "run.accum_grad_iters=1", "run.resume_ckpt_path=auto"]
    options.append(f"run.iters_per_epoch={NUM_STEPS}")
    assert train(load(run_file, options=options)).state.step == NUM_STEPS
    assert read_entry(half, step=NUM_STEPS).accum == 1
    assert keys_of(half) == keys_of(whole)


def test_a_replayed_step_has_the_samples_of_the_run(run_file, whole):
    config, entry = load(whole / "config.yaml"), read_entry(whole, step=3)
    replay = build_replay(config, whole, entry=entry, start=find_start(whole, step=3), device="cpu")
    shown = [ref.index for ref in replay.data.plan.step(2)]
    reader = replay.data._train.readers["tune"]
    assert [reader.key(index) for index in shown] == keys_of(whole)[2]


def test_a_run_may_not_go_on_in_another_order(run_file, whole):
    options = ["run.group_by_length=false", "run.resume_ckpt_path=auto"]
    with pytest.raises(ConfigError, match=r"run\.group_by_length: True in the run, False now"):
        train(load(run_file, options=options))


def test_only_the_main_rank_counts_and_its_error_is_raised_on_all(monkeypatch):
    def fail(*_args, **_kwargs):
        raise ConfigError("datasets.tune: no branch takes it")

    run = RunConfig(task="t", output_dir="out", group_by_length=True)
    monkeypatch.setattr(lengths, "lengths_of", fail)
    told = []

    def gather(value):
        told.append(value)
        return [ConfigError("datasets.tune: no branch takes it")]

    monkeypatch.setattr(lengths, "gather_objects", gather)
    for is_main in (True, False):
        monkeypatch.setattr(lengths, "is_main", lambda is_main=is_main: is_main)
        with pytest.raises(ConfigError, match="no branch takes it"):
            lengths.shared_lengths({"tune": None}, encoder=None, run=run)
    assert [type(value) for value in told] == [ConfigError, dict]


def test_a_run_that_does_not_group_counts_nothing():
    run = RunConfig(task="t", output_dir="out")
    assert lengths.shared_lengths({"tune": None}, encoder=None, run=run) == {}
