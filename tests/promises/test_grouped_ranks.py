"""Promise: grouped by length, two ranks see the samples of one, and lengths are counted once."""

from __future__ import annotations

import json
from functools import partial

import pytest
import yaml
from apps.tiny_project import NUM_CLIPS, write_project
from promises.launch import as_torchrun, run_ranks

from video_llama.apps.main import main
from video_llama.runners.ledger import read_entry

pytestmark = pytest.mark.slow
NUM_STEPS = 4


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """As many texts as clips, 4 samples a step."""
    folder = tmp_path_factory.mktemp("grouped_ranks")
    path = write_project(folder, streams=("video",))
    rows = []
    for number in range(NUM_CLIPS):
        for kind, mark in (("text", ""), ("clip", "<video>")):
            question = {"from": "human", "value": mark + "why " * (number + 1)}
            row = {
                "id": f"{kind}{number}",
                "conversations": [question, {"from": "gpt", "value": "so"}],
            }
            rows.append({**row, "video": f"page/{number}.mp4"} if mark else row)
    (folder / "rows.json").write_text(json.dumps(rows))
    tree = yaml.safe_load(path.read_text())
    (entry,) = tree["datasets"].values()
    data = {"annotations": str(folder / "rows.json"), "media": entry["media"]}
    tree["datasets"] = {"tune": {"type": "llava_conversations", **data}}
    tree["model"]["branches"]["audio"] = None
    tree["run"] |= {
        "iters_per_epoch": NUM_STEPS,
        "group_by_length": True,
        "feature_cache": str(folder / "cache"),
        "num_workers": 0,
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def run(project, *, num_ranks):
    """The samples of every step, by the ledger of a run of so many ranks."""
    folder = project.parent / f"ranks{num_ranks}"
    options = [f"run.output_dir={folder}", f"run.batch_size_train={4 // num_ranks}"]
    words = ["train", "--cfg-path", str(project), "--options", *options]
    run_ranks(
        partial(main, words), worlds=as_torchrun(num_ranks), logs=folder.parent / f"{num_ranks}"
    )
    entries = [read_entry(folder, step=step) for step in range(1, NUM_STEPS + 1)]
    assert {entry.num_ranks for entry in entries} == {num_ranks}
    return [[sample.trace.key for sample in entry.samples] for entry in entries]


def test_two_ranks_see_the_samples_of_one_in_its_order(project):
    two = run(project, num_ranks=2)
    (file,) = (project.parent / "cache" / "lengths").iterdir()
    counted = file.stat().st_mtime_ns
    one = run(project, num_ranks=1)
    assert two == one
    assert all(len({key[:4] for key in step}) == 1 for step in two)
    assert file.stat().st_mtime_ns == counted
