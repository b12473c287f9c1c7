"""Whole runs over files that break their decoder, in training and in validation."""

import csv
import json
from functools import partial
from pathlib import Path

import pytest
import yaml
from apps.tiny_project import break_clips, write_project
from processors.unruly import DEEDS, UnrulyLoader
from promises.launch import as_torchrun, run_ranks
from promises.unequal_records import count_anew

from video_llama.apps.main import main
from video_llama.datasets.collate import Skip
from video_llama.runners import data as run_data
from video_llama.runners.checkpoint import RunState
from video_llama.runners.metrics import read_lines
from video_llama.runners.skips import SkipCounts, counted_anew

TIMEOUT_S = 5
REASONS = {
    "0.mp4": "the decoder crashed (signal 11)",
    "1.mp4": f"not decoded within {TIMEOUT_S} s",
    "3.mp4": "the decoder crashed (out of memory, 8 GiB allowed)",
}


@pytest.fixture
def project(tmp_path):
    return write_project(tmp_path)


def train(project, *options):
    return main(["train", "--cfg-path", str(project), "--options", *options])


def skips_of(project):
    return read_lines(project.parent / "out" / "skipped.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_decoder_that_crashes_hangs_or_hoards_costs_a_sample_each(
    project, num_workers, monkeypatch
):
    assert REASONS.keys() == DEEDS.keys()
    monkeypatch.setattr(run_data, "MediaLoader", UnrulyLoader)
    options = [f"run.num_workers={num_workers}", f"run.decode_timeout_s={TIMEOUT_S}"]
    assert train(project, "run.max_skip_rate=1", *options) == 0
    found = {(Path(skip["path"]).name, skip["reason"]) for skip in skips_of(project)}
    # Two steps of four are one pass over the eight clips: each is met once at least.
    assert found == set(REASONS.items())
    state = json.loads((project.parent / "out/checkpoints/last/state.json").read_text())
    assert state["step"] == 2


def with_validation(project):
    """Train on good clips and validate on all, three of which are broken."""
    break_clips(project.parent / "clips")
    tree = yaml.safe_load(project.read_text())
    clips = tree["datasets"]["clips"]
    good = project.parent / "good.csv"
    with good.open("w", newline="") as file:
        rows = [(str(i), f"Clip number {i}.", "page") for i in (2, 4, 5, 6, 7)]
        csv.writer(file).writerows([("videoid", "name", "page_dir"), *rows])
    tree["datasets"] = {
        "clips": {**clips, "annotations": str(good)},
        "held_out": {**clips, "split": "valid"},
    }
    tree["run"]["max_epoch"] = 2
    project.write_text(yaml.safe_dump(tree))


def test_a_validation_names_what_it_could_not_use_once_for_all(project):
    with_validation(project)
    assert train(project, "run.max_skip_rate=1") == 0
    skips = skips_of(project)
    assert {skip["dataset"] for skip in skips} == {"held_out"}
    named = sorted(Path(skip["path"]).name for skip in skips if skip["index"] == skip["position"])
    assert named == ["0.mp4", "1.mp4", "3.mp4"]
    places = [(skip["position"], skip["index"]) for skip in skips]
    assert len(places) == len(set(places))
    lines = read_lines(project.parent / "out" / "metrics.jsonl")
    assert sum(line["kind"] == "valid" for line in lines) == 2


def test_a_validation_set_of_which_too_much_is_broken_stops_the_run_by_name(project, capsys):
    with_validation(project)
    assert train(project, "run.max_skip_rate=0.01") == 2
    said = capsys.readouterr().err
    assert "samples could not be used (held_out " in said
    assert "more than run.max_skip_rate = 0.01" in said
    assert "page/3.mp4: the file is empty (0 bytes)" in said
    assert "skipped.jsonl" in said


def test_a_share_is_judged_by_all_samples_and_not_before_a_hundred():
    skips = [Skip("d", "k", "p.mp4", "broken", i, i) for i in range(11)]
    counts = SkipCounts({}).plus(skips[:10])
    counts.check(num_used=4, max_rate=0.1, last=skips, where="there")
    counts = counts.plus(skips[10:])
    with pytest.raises(ValueError, match=r"11 of 15 .*\(d 11\).*\n  - p\.mp4: broken"):
        counts.check(num_used=4, max_rate=0.1, last=skips, where="there")
    counts.check(num_used=99, max_rate=0.1, last=skips, where="there")


STATE = RunState(step=10, steps_per_epoch=5, global_batch_size=4, num_skipped={"clips": 9})


def test_what_is_recorded_stays_counted():
    assert counted_anew(STATE, record={("clips", 39): ()}) is STATE


def test_lines_written_after_a_deletion_do_not_bring_the_old_count_back():
    assert counted_anew(STATE, record={("clips", 40): ()}).num_skipped == {}


def test_faults_of_a_validation_do_not_bring_the_old_count_back():
    assert counted_anew(STATE, record={("held_out", 3): ()}).num_skipped == {}


def test_a_run_that_skipped_nothing_is_judged_by_all_its_samples():
    state = RunState(step=10, steps_per_epoch=5, global_batch_size=4)
    assert counted_anew(state, record={}).skips_since == 0


@pytest.mark.slow
def test_all_ranks_count_as_the_one_that_keeps_the_record(tmp_path):
    run_ranks(partial(count_anew, tmp_path), worlds=as_torchrun(2), logs=tmp_path / "logs")
    counts = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert counts == [{"clips": 9}, {"clips": 9}]
