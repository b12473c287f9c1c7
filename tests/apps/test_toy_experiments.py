"""What the cells are shown, and that the clips they are asked about are there first."""

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from video_llama.apps.toy_experiments import cells, run_experiments, swap_clips
from video_llama.apps.toy_run import open_recipes
from video_llama.apps.verb_processes import Verbs
from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.toy.plan import HELD_OUT_SPLITS, Counts
from video_llama.toy.world import write_world

COUNTS = Counts(4, 2, test=2, composition=2, train_pictures=2, valid_pictures=1, voices=1)
CELLS = cells(Path("output/toy"), seed=42)


def configs(cell):
    """Every run file of a cell, with its overrides."""
    for side_by_side in cell.lanes:
        for lane in side_by_side:
            options = ("model.toy_runs=runs", *cell.train_options)
            for recipe in open_recipes(lane, options, own_options=cell.own_options):
                yield recipe.config


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_the_run_files_of_every_cell_can_be_loaded(cell):
    assert list(configs(cell))


def test_the_trained_blind_model_is_shown_no_clip_with_its_own_text():
    blind = next(cell for cell in CELLS if cell.name == "blind")
    for config in configs(blind):
        learned = [entry for entry in config.datasets.values() if entry.split == "train"]
        assert all("swapped" in entry.config.annotations for entry in learned)


def test_the_audio_branch_on_pictures_hears_nothing_while_it_learns():
    cell = next(cell for cell in CELLS if cell.name == "audio_on_pictures")
    for config in configs(cell):
        assert config.model.branches["audio"].media == ("video", "image")
        assert all(entry.config.streams == ("video",) for entry in config.datasets.values())


class NoVerbs(Verbs):
    """Refuses to start anything."""

    def __init__(self):
        super().__init__(warm=False)

    def start(self, call):
        raise VideoLlamaError("started")


@pytest.fixture
def demo(tmp_path):
    """A folder with results, and no world yet."""
    (tmp_path / "eval_withaudio").mkdir()
    (tmp_path / "eval_withaudio" / "metrics.json").write_text("{}")
    return tmp_path


def experiment(folder, message):
    with pytest.raises(VideoLlamaError, match=message):
        run_experiments(folder, seed=42, console=Console(quiet=True), verbs=NoVerbs())


@pytest.mark.parametrize("later", [("composition",), HELD_OUT_SPLITS])
def test_the_clips_a_run_left_for_later_are_written_before_anything_is_started(demo, later):
    write_world(demo / "world", counts=COUNTS, num_workers=1, later=later)
    experiment(demo, "started")
    assert len(list((demo / "world" / "videos" / "composition_000").glob("*.mp4"))) == 2
    assert json.loads((demo / "world" / "world.json").read_text())["later"] == []


def test_a_world_that_has_everything_is_left_as_it_is(demo):
    write_world(demo / "world", counts=COUNTS, num_workers=1)
    files = [path for path in (demo / "world").rglob("*") if path.is_file()]
    before = [path.stat().st_mtime_ns for path in files]
    experiment(demo, "started")
    assert [path for path in (demo / "world").rglob("*") if path.is_file()] == files
    assert [path.stat().st_mtime_ns for path in files] == before


def test_experiments_on_a_world_that_is_gone_are_refused(demo):
    with pytest.raises(ConfigError, match=r"there is no .*world\.json; run .*toy run --out"):
        run_experiments(demo, seed=42, console=Console(quiet=True), verbs=NoVerbs())


def test_every_row_of_a_csv_gets_the_clip_of_another_and_keeps_its_text():
    text = "videoid,name,page_dir\n" + "".join(f'v{i},"text {i}, more",p{i}\n' for i in range(9))
    rows = list(csv.DictReader(io.StringIO(swap_clips(text, is_csv=True))))
    assert [row["name"] for row in rows] == [f"text {i}, more" for i in range(9)]
    assert all(row["videoid"] != f"v{i}" for i, row in enumerate(rows))
    assert all(row["videoid"][1:] == row["page_dir"][1:] for row in rows)
    assert sorted(row["videoid"] for row in rows) == [f"v{i}" for i in range(9)]


def test_every_conversation_gets_the_clip_of_another_and_keeps_its_text():
    rows = [{"video": f"{i}.mp4", "QA": [{"q": "?", "a": str(i)}]} for i in range(5)]
    swapped = json.loads(swap_clips(json.dumps(rows), is_csv=False))
    assert [row["QA"] for row in swapped] == [row["QA"] for row in rows]
    assert all(row["video"] != rows[i]["video"] for i, row in enumerate(swapped))
