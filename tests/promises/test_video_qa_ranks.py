"""Promise: questions and answers in two files are scored alike on one rank and on four.

The published evaluation cut the questions among processes and not the answers, so that all but the
first process scored against the answers of other questions.
"""

from __future__ import annotations

import json
import random
from functools import partial

import pytest
import yaml
from apps.tiny_project import MODEL, NUM_CLIPS, write_clips
from promises.launch import as_torchrun, run_ranks
from promises.recorded_answers import evaluate_recorded

pytestmark = pytest.mark.slow
GONE = "vid3"
"""The one clip whose file is not there."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two questions a clip, the answers shuffled; every clip in another container's name."""
    folder = tmp_path_factory.mktemp("video_qa")
    clips = write_clips(folder / "clips") / "page"
    for number in range(NUM_CLIPS):
        (clips / f"{number}.mp4").rename(clips / f"vid{number}.{('mp4', 'avi', 'mov')[number % 3]}")
    (clips / f"{GONE}.mp4").unlink()
    questions, answers = [], []
    for number in range(2 * NUM_CLIPS):
        asked = {"video_name": f"vid{number // 2}", "question": f"what is {number}"}
        questions.append({**asked, "question_id": number})
        answers.append({"answer": f"thing {number}", "type": number % 2, "question_id": number})
    random.Random(0).shuffle(answers)
    (folder / "test_q.json").write_text(json.dumps(questions))
    (folder / "test_a.json").write_text(json.dumps(answers))
    entry = {
        "type": "video_qa",
        "split": "test",
        "annotations": str(folder / "test_q.json"),
        "answers": str(folder / "test_a.json"),
        "media": str(clips),
    }
    run = {
        "task": "question_answering",
        "output_dir": str(folder / "one"),
        "device": "cpu",
        "batch_size_eval": 4,
        "max_new_tokens": 3,
        "max_skip_rate": 0.2,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"model": MODEL, "datasets": {"asked": entry}, "run": run}))
    return path


@pytest.fixture(scope="module")
def results(project):
    """Folders of the same evaluation on one rank and on four."""
    folders = {}
    for num_ranks in (1, 4):
        folder = folders[num_ranks] = project.parent / f"ranks{num_ranks}"
        work = partial(
            evaluate_recorded,
            project,
            [f"run.output_dir={folder}"],
            record=folder / "record",
        )
        run_ranks(work, worlds=as_torchrun(num_ranks), logs=folder / "logs")
    return {num_ranks: folder / "asked" for num_ranks, folder in folders.items()}


def test_four_ranks_give_the_files_that_one_gives(results):
    for name in ("predictions.jsonl", "metrics.json"):
        assert (results[4] / name).read_text() == (results[1] / name).read_text()


def test_every_prediction_stands_beside_the_answer_of_its_question(results):
    lines = (results[4] / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["question"]: row["answer"] for row in rows} == {
        f"what is {number}": f"thing {number}"
        for number in range(2 * NUM_CLIPS)
        if f"vid{number // 2}" != GONE
    }


def test_what_is_missing_is_named_and_the_coverage_told(results):
    metrics = json.loads((results[4] / "metrics.json").read_text())
    assert sorted(metrics["unusable"]) == ["6", "7"]
    assert all("no such clip, looked for vid3" in text for text in metrics["unusable"].values())
    assert metrics["coverage"] == (2 * NUM_CLIPS - 2) / (2 * NUM_CLIPS)
    assert set(metrics["kinds"]) == {"type 0", "type 1"}
    assert set(metrics["lenient"]["kinds"]) == {"type 0", "type 1"}
