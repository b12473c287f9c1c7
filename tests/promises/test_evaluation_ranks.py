"""Promise: an evaluation on four ranks, or one killed in the middle, is that of one process."""

from __future__ import annotations

import json
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import yaml
from apps.tiny_project import MODEL, NUM_CLIPS, write_clips
from promises.launch import as_torchrun, finish, run_ranks, start_ranks
from promises.recorded_answers import CLIPS_PER_CHUNK, evaluate_recorded, finished_chunks

pytestmark = pytest.mark.slow
SPANS = ((0.0, 0.25), (0.25, 0.5))
BROKEN = 3
NUM_CHUNKS = NUM_CLIPS * len(SPANS) // CLIPS_PER_CHUNK
OPTIONS = ("red", "blue", "green")


def rows_of(number: int, *, start: float, end: float) -> list[dict[str, object]]:
    """Ask one question of each form about a piece of a clip."""
    shown = {"video": f"page/{number}.mp4", "start": start, "end": end}
    right = OPTIONS[number % 3]
    return [
        {**shown, "question": f"What is {number}?", "answer": right, "kind": "open"},
        {**shown, "question": "Is it red?", "answer": "no", "kind": "yes",
         "candidates": ["yes", "no"]},
        {**shown, "question": "Which?", "answer": right, "kind": "mc", "candidates": list(OPTIONS)},
    ]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Questions about pieces of eight clips, one of them broken; two probes."""
    folder = tmp_path_factory.mktemp("evaluation")
    clips = write_clips(folder / "clips")
    (clips / "page" / f"{BROKEN}.mp4").write_bytes(b"no film")
    rows = [
        row
        for number in range(NUM_CLIPS)
        for start, end in SPANS
        for row in rows_of(number, start=start, end=end)
    ]
    (folder / "questions.json").write_text(json.dumps(rows))
    entry = {
        "type": "mvbench",
        "split": "test",
        "annotations": str(folder / "questions.json"),
        "media": str(clips),
        "streams": ["video", "audio"],
    }
    run = {
        "task": "question_answering",
        "output_dir": str(folder / "one"),
        "device": "cpu",
        "batch_size_eval": 4,
        "max_new_tokens": 3,
        "max_skip_rate": 0.2,
        "probes": ["no_media", "sound_swapped"],
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"model": MODEL, "datasets": {"asked": entry}, "run": run}))
    return path


def work(project: Path, name: str, *, part: int = 0, kill_after: int | None = None):
    folder = project.parent / name
    return partial(
        evaluate_recorded, project, [f"run.output_dir={folder}"],
        record=folder / f"record{part}", kill_after=kill_after,
    )  # fmt: skip


@pytest.fixture(scope="module")
def one(project):
    run_ranks(work(project, "one"), worlds=as_torchrun(1), logs=project.parent / "one" / "logs")
    return project.parent / "one"


@pytest.fixture(scope="module")
def four(project):
    run_ranks(work(project, "four"), worlds=as_torchrun(4), logs=project.parent / "four" / "logs")
    return project.parent / "four"


@pytest.fixture(scope="module")
def killed(project):
    """Two ranks, each killed after its first chunk, and then one rank for the rest."""
    folder = project.parent / "killed"
    ranks = start_ranks(
        work(project, "killed", kill_after=1), worlds=as_torchrun(2), logs=folder / "logs0"
    )
    assert finish(ranks) == [-signal.SIGKILL] * 2
    assert not (folder / "asked" / "predictions.jsonl").exists()
    run_ranks(work(project, "killed", part=1), worlds=as_torchrun(1), logs=folder / "logs1")
    return folder


def predictions(folder: Path) -> str:
    return (folder / "asked" / "predictions.jsonl").read_text()


def test_every_row_is_asked_once_and_once_under_each_probe(project, four):
    asked = json.loads((project.parent / "questions.json").read_text())
    lines = [json.loads(line) for line in predictions(four).splitlines()]
    usable = [row for row in asked if f"/{BROKEN}." not in row["video"]]
    count = Counter(line["probe"] for line in lines)
    assert count["none"] == len(asked)
    assert count["no_media"] == len(usable)
    assert count["sound_swapped"] > 0
    assert len({(line["key"], line["probe"]) for line in lines}) == len(lines)


def test_the_four_ranks_share_the_work(four):
    shares = finished_chunks(four / "record0")
    assert [len(share) for share in shares] == [NUM_CHUNKS // 4] * 4


@pytest.mark.parametrize("name", ["four", "killed"])
def test_predictions_and_metrics_are_those_of_one_process(one, name, request):
    other = request.getfixturevalue(name)
    assert predictions(other) == predictions(one)
    for file in ("metrics.json", "asked/metrics.json"):
        assert json.loads((other / file).read_text()) == json.loads((one / file).read_text())


def test_after_a_kill_only_what_is_missing_is_asked(killed):
    before, after = (finished_chunks(killed / f"record{part}") for part in (0, 1))
    assert [len(share) for share in before] == [1, 1]
    assert sorted(sum(before + after, [])) == list(range(NUM_CHUNKS))


def test_nothing_but_results_is_left(killed):
    names = {path.name for path in (killed / "asked").iterdir() if path.is_file()}
    assert names == {"identity.json", "metrics.json", "predictions.jsonl"}
    assert not list((killed / "asked").glob("parts/*"))
