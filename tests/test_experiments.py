"""Every shipped experiment can be opened and says what it is for; run files it names are there."""

from pathlib import Path

import pytest

from video_llama.apps.experiment_cells import open_cells
from video_llama.apps.experiment_file import read_experiment
from video_llama.apps.experiment_problems import sentences
from video_llama.apps.experiment_runs import Loader

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(ROOT.glob("experiments/*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_all_cells_of_a_shipped_experiment_load(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    experiment = read_experiment(path)
    loader = Loader(tmp_path, experiment.feature_cache)
    for cell in open_cells(experiment, options={}):
        loader.chain(cell, seed=experiment.seeds[0])
    assert sentences(loader.problems) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_experiment_opens_with_its_purpose_and_its_command(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line for line in lines if line.startswith("#")]
    command = f"#   video-llama experiment experiments/{path.name}"
    assert lines[: len(head)] == head
    assert any(line.startswith(command) for line in head[1:])


def test_an_experiment_is_found_by_its_shipped_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "experiments/of_a_test.yaml"
    monkeypatch.setattr("video_llama.apps.experiment_file.SHIPPED_RUN_FILES", (tmp_path / "share",))
    file = tmp_path / "share" / name
    file.parent.mkdir(parents=True)
    file.write_text("title: T\nrecipes: [a.yaml]\ncells: {a: }\n")
    assert read_experiment(Path(name)).title == "T"
