"""What is known of an experiment before the first cell starts, on eight clips and a tiny model."""

import json

import pytest
import yaml
from rich.console import Console
from tiny_experiment import write_experiment, write_run_files

from video_llama.apps.experiment_cells import open_cells
from video_llama.apps.experiment_file import read_experiment
from video_llama.apps.experiment_jobs import EvaluationJob
from video_llama.apps.experiment_open import (
    change_problems,
    changed_runs,
    open_experiment,
)
from video_llama.apps.experiment_report import report
from video_llama.apps.experiment_stamp import set_aside, settings_of, standings, write_stamp
from video_llama.apps.experiment_work import plan_work
from video_llama.apps.main import main
from video_llama.common.errors import ConfigError

QUERIES = "model.branches.video.stages.video_qformer.num_queries"
FROZEN_ENCODER = {"model.branches.video.encoder.trainable": False}
ALONE = {"cells": {"slow": None}}
"""Where other cells do not matter: every one takes a second to open."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Clips and run files."""
    folder = tmp_path_factory.mktemp("files")
    write_run_files(folder)
    return folder


@pytest.fixture
def opened(files, tmp_path):
    """Open an experiment with some keys changed."""

    def open_it(*, num_ranks=1, words=None, **changes):
        experiment = read_experiment(write_experiment(files, **changes))
        cells = open_cells(experiment, options=words or {})
        return open_experiment(experiment, cells=cells, out=tmp_path, num_ranks=num_ranks)

    return open_it


def refused(opened, **changes):
    with pytest.raises(ConfigError) as caught:
        opened(**changes)
    return caught.value.problems


def changed_cell(**options):
    return {"cells": {"slow": None, "other": options}}


def test_runs_are_chained_by_their_folders_and_have_the_seed_of_their_chain(opened, tmp_path):
    chains = opened(seeds=[1, 2]).chains
    assert [chain.name for chain in chains] == [
        "slow, seed 1",
        "fast, seed 1",
        "slow, seed 2",
        "fast, seed 2",
    ]
    align, tune, ask = (run.config for run in chains[3].runs)
    folder = tmp_path / "cells" / "fast" / "seed_2"
    assert (align.run.output_dir, align.run.seed) == (str(folder / "align"), 2)
    assert (align.model.ckpt, tune.model.ckpt) == (None, str(folder / "align"))
    assert (ask.model.ckpt, ask.run.output_dir) == (str(folder / "tune"), str(folder / "eval_ask"))
    assert (align.run.init_lr, chains[2].runs[0].config.run.init_lr) == (0.001, 0.0001)


def test_all_mistakes_of_all_cells_are_told_together(opened, tmp_path):
    cells = {
        "slow": None,
        "typo": {"options": {"model.branches.video.encoder.depht": 2}},
        "nowhere": {"own_options": {"align": {"datasets.clips.annotations": "no/table.csv"}}},
        "short": {"options": {"model.max_txt_len": 2}},
    }
    problems = refused(opened, cells=cells, data="own")
    (typo,) = [text for text in problems if "typo" in text]
    assert typo.startswith("cells.typo; align, tune, ask: model.branches.video.encoder.depht: unk")
    assert "did you mean 'depth'?" in typo
    assert any("cells.nowhere, align: datasets.clips.annotations" in text for text in problems)
    assert any("cells.short; align, tune, ask: model.max_txt_len: 2" in t for t in problems)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_of_several_cells_is_told_once_with_their_names(opened):
    wrong = {"options": {"run.log_freq": 0}}
    problems = refused(opened, cells={"a": None, "b": wrong, "c": wrong}, seeds=[1, 2])
    assert len(problems) == 1
    assert problems[0].startswith("cells b, c; align, tune, ask: run: log_freq must be at least 1")


def test_options_of_all_run_files_bring_nothing_back_that_one_switches_off(opened):
    pitch = {"model.branches.audio.stages.projection.trainable": False}
    (problem,) = refused(opened, **changed_cell(options=pitch))
    assert problem.startswith("cells.other; align, tune, ask: model.branches.audio.stages.proj")
    assert "the run file switches model.branches.audio off" in problem
    told = refused(opened, **changed_cell(own_options={"align": pitch}))
    assert not any("switches" in text for text in told)


def test_a_run_that_would_not_fit_the_one_it_starts_from_is_found_before(opened):
    (problem,) = refused(opened, **changed_cell(train_options={QUERIES: 5}))
    assert problem.startswith("cells.other, ask: branches.video.stages.video_qformer.queries")
    assert "[1, 5, 16] in tune and [1, 2, 16] here" in problem


def test_a_part_that_nothing_trained_is_found_before(opened):
    options = {"model.branches.video.stages.extra": {"type": "mlp", "width": 16, "depth": 1}}
    problems = refused(opened, **changed_cell(eval_options=options))
    text = "model.branches.video.stages.extra: 2 parameters come from no file, and tune did not"
    assert any(text in problem for problem in problems)


OTHER_DATA = {
    "smaller": ({"run.batch_size_train": 2}, "samples of a step is 2, and 4 in slow"),
    "longer": ({"run.iters_per_epoch": 4}, "length is 4 steps, and 2 steps in slow"),
    "ratio": ({"datasets.clips.sample_ratio": 3}, "datasets.clips.sample_ratio is 3, and not set"),
    "fewer": ({"datasets.clips.max_samples": 4}, "datasets.clips.max_samples is 4, and not set"),
}


def test_cells_that_would_see_other_samples_are_refused_unless_they_say_so(opened):
    cells = {name: {"train_options": options} for name, (options, _) in OTHER_DATA.items()}
    problems = refused(opened, cells={"slow": None, **cells})
    told = opened(cells={"slow": None, **cells}, data="own").remarks
    for texts in (problems, told):
        assert len(texts) == len(OTHER_DATA)
        for text, (name, (_, difference)) in zip(texts, OTHER_DATA.items(), strict=True):
            assert name in text
            assert f"align: {difference}" in text
    assert problems[0].startswith("cells.smaller: it would not see the same samples")


def test_batches_put_together_by_length_are_other_ones_where_a_clip_takes_more_slots(opened):
    grouped = {"run.group_by_length": True}
    cells = {"two": None, "three": {"options": {QUERIES: 3}}}
    (problem,) = refused(opened, train_options=grouped, cells=cells)
    assert "the number of slots (run.group_by_length) is {'video': 3}, and {'video': 2}" in problem
    assert opened(cells=cells).remarks == ()


def test_accumulated_batches_of_the_same_size_are_the_same_data(opened):
    halves = {"run.batch_size_train": 2, "run.accum_grad_iters": 2, "run.iters_per_epoch": 4}
    assert opened(**changed_cell(train_options=halves)).remarks == ()


def test_a_batch_that_ranks_cannot_share_is_refused(opened):
    problems = refused(opened, num_ranks=3)
    assert "cannot be shared by --ranks 3 processes evenly" in problems[0]


def test_a_device_of_its_own_is_refused(opened):
    problems = refused(opened, options={"run.device": "cuda:1"})
    assert "cuda:1 is one device" in problems[0]


@pytest.mark.parametrize(
    ("changes", "folder"),
    [
        ({}, "{out}/features"),
        ({"feature_cache": "x"}, "x"),
        ({"options": {"run.feature_cache": "mine"}}, "mine"),
        ({"feature_cache": None}, None),
        ({"options": {"datasets.clips.augment": "random_crop"}, "evaluate": []}, None),
    ],
)
def test_all_cells_share_one_folder_of_features(opened, tmp_path, changes, folder):
    (chain,) = opened(cells={"a": None}, **changes).chains
    found = {run.config.run.feature_cache for run in chain.runs}
    assert found == {folder and folder.format(out=tmp_path)}


def test_features_of_the_same_frozen_parts_are_made_once_ahead_of_all_that_need_them(
    opened, tmp_path, files
):
    frozen = {"model.branches.video.encoder.weights": str(files / "clips.csv"), **FROZEN_ENCODER}
    frozen |= {"run.iters_per_epoch": 2}
    plan = opened(options=frozen, evaluate=[], cells={"a": None, "b": {"options": {QUERIES: 3}}})
    work = plan_work(plan.chains, facts=plan.facts, logs=tmp_path / "logs")
    makers = [p for p, task in enumerate(work.tasks) if p not in work.runs]
    assert len(makers) == 1
    waiting = [task for p, task in enumerate(work.tasks) if p in work.runs]
    assert all(makers[0] in task.after for task in waiting)
    wider = {"model.branches.video.encoder.num_frames": 3}
    cells = {"a": None, "b": None, "c": {"options": wider}, "d": {"options": wider}}
    plan = opened(options=frozen, evaluate=[], cells=cells)
    work = plan_work(plan.chains, facts=plan.facts, logs=tmp_path / "logs")
    assert len(work.tasks) - len(work.runs) == 2


def test_features_behind_what_a_recipe_trains_are_not_made_ahead(opened, tmp_path, files):
    frozen = {"model.branches.video.encoder.weights": str(files / "clips.csv"), **FROZEN_ENCODER}
    branch = "model.branches.video.stages"
    stages = {f"{branch}.{stage}.trainable": False for stage in ("video_qformer", "projection")}
    plan = opened(options=frozen, eval_options=stages)
    work = plan_work(plan.chains, facts=plan.facts, logs=tmp_path / "logs")
    asked = [work.tasks[place] for place, run in work.runs.items() if not run.step.learns]
    assert len(asked) == 2
    assert all(set(task.after) <= work.runs.keys() for task in asked)


def test_a_part_of_an_evaluation_that_goes_while_it_is_counted_counts_nothing(opened):
    (ask,) = opened(**ALONE).chains[0].evaluations
    parts = ask.folder / "held_out" / "parts"
    parts.mkdir(parents=True)
    (parts / "rank0.jsonl").symlink_to("gone")  # listed, and not there when it is read
    assert EvaluationJob(ask, 8).done() == 0


def test_where_nothing_is_compared_no_earlier_report_is_shown(opened, tmp_path):
    (tmp_path / "report.html").write_text("of runs that are gone")
    plan, console = opened(), Console(record=True, width=300)
    assert not report(plan, only=[plan.chains[0].cell.name], failed={}, console=console)
    said = console.export_text()
    assert "nothing to compare" in said
    assert "report.html" not in said


def make_results(run):
    """Put what a run is made for into its folder."""
    if run.step.learns:
        file = run.folder / "checkpoints" / "last" / "trainable.safetensors"
    else:
        file = run.folder / "held_out" / "predictions.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("")
    return file


def test_what_is_finished_is_reused_and_what_is_not_is_gone_on_with(opened, tmp_path):
    plan = opened(**ALONE)
    (chain,) = plan.chains
    settings = settings_of(chain)
    align, tune, _ = chain.runs
    make_results(align)
    make_results(tune)
    write_stamp(align, settings=settings[str(align.folder)], is_finished=True)
    write_stamp(tune, settings=settings[str(tune.folder)], is_finished=False)
    found = standings(chain)
    assert [standing.is_there for standing in found] == [True, True, False]
    assert [standing.is_finished for standing in found] == [True, False, False]
    assert not any(standing.changes for standing in found)
    work = plan_work([chain], facts=plan.facts, logs=tmp_path / "logs")
    assert [run.step.stem for run in work.runs.values()] == ["tune", "ask"]
    assert [task.after for task in work.tasks] == [(), (0,)]


@pytest.mark.parametrize("stem", ["tune", "ask"])
def test_a_finished_run_whose_result_is_gone_is_made_again(opened, stem):
    plan = opened(**ALONE)
    finish_all(plan)
    (chain,) = plan.chains
    files = {run.step.stem: make_results(run) for run in chain.runs}
    assert all(standing.is_finished for standing in standings(chain))
    files[stem].unlink()
    (left,) = [r for r, s in zip(chain.runs, standings(chain), strict=True) if not s.is_finished]
    assert left.step.stem == stem
    (ask,) = chain.evaluations
    (ask.folder / "metrics.json").write_text("{}")
    kept = EvaluationJob(ask, 8).kept()
    assert kept == (0 if stem == "ask" else 8)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}'])
def test_a_damaged_stamp_is_named_with_the_way_out(opened, content):
    plan = opened(**ALONE)
    run = plan.chains[0].runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / "experiment_run.json").write_text(content)
    (problem,) = change_problems(changed_runs(plan))
    assert problem.startswith(f"{run.folder}: ")
    assert "experiment_run.json is damaged" in problem
    assert "--redo-changed" in problem


def test_cells_that_do_not_differ_are_named(opened):
    cells = {"a": None, "b": {"options": {"run.num_workers": 2}}, "c": None}
    remarks = opened(cells=cells, options={QUERIES: 3}).remarks
    assert remarks == ("a, c: all settings of these cells are the same",)


def finish_all(opened):
    for chain in opened.chains:
        for run in chain.runs:
            settings = settings_of(chain)[str(run.folder)]
            write_stamp(run, settings=settings, is_finished=True)


def test_a_changed_cell_is_named_with_what_changed_and_the_runs_after_it_too(opened, tmp_path):
    finish_all(opened())
    changed = changed_runs(opened(own_options={"align": {"run.weight_decay": 0.5}}))
    assert [run.step.stem for run, _ in changed] == ["align", "tune", "ask"] * 2
    problems = change_problems(changed)
    assert len(problems) == 2
    assert "cells/slow/seed_1/align: it holds another run: run.weight_decay: not set" in problems[0]
    assert "in the folder, 0.5 now" in problems[0]
    aside = set_aside(changed[0][0], out=tmp_path)
    assert aside == tmp_path / "changed" / "cells" / "slow" / "seed_1" / "align_1"
    assert (aside / "experiment_run.json").is_file()
    assert not changed[0][0].folder.exists()


def test_how_fast_and_where_a_run_computes_is_no_change(opened):
    finish_all(opened(**ALONE))
    faster = {"run.num_workers": 2, "run.log_freq": 7, "run.keep_last": 1, "run.save_freq": 3}
    assert changed_runs(opened(**ALONE, train_options=faster)) == []


def test_as_published_the_accumulation_of_a_step_is_a_change(opened):
    halves = {"run.batch_size_train": 2, "run.accum_grad_iters": 2, "run.iters_per_epoch": 4}
    released = {"model.compat": "released"}
    finish_all(opened(**ALONE, options=released))
    changed = changed_runs(opened(**ALONE, options=released, train_options=halves))
    assert changed[0][1].changes == ("iterations of a step: 1 in the folder, 2 now",)


def test_what_decides_the_best_checkpoint_is_a_change(opened):
    finish_all(opened(**ALONE))
    changed = changed_runs(opened(**ALONE, train_options={"run.on_spike": "skip"}))
    assert changed[0][1].changes == ("run.on_spike: not set in the folder, 'skip' now",)


def test_another_annotation_file_of_the_same_name_is_a_change(opened, files):
    finish_all(opened(**ALONE))
    table = files / "questions.json"
    before = table.read_text()
    try:
        table.write_text(json.dumps(json.loads(before)[1:]))
        assert {run.step.stem for run, _ in changed_runs(opened(**ALONE))} == {"ask"}
    finally:
        table.write_text(before)


def test_other_answers_in_a_file_of_their_own_are_a_change(opened, files):
    tree = yaml.safe_load((files / "ask.yaml").read_text())
    questions, answers = files / "qa_questions.json", files / "qa_answers.json"
    questions.write_text(
        json.dumps([{"video_name": "page/0", "question": "Which?", "question_id": 0}])
    )
    answers.write_text(json.dumps([{"answer": "0", "question_id": 0}]))
    entry = {"type": "video_qa", "split": "test", "streams": ["video"], "answers": str(answers)}
    entry |= {"annotations": str(questions), "media": str(files / "clips")}
    (files / "open.yaml").write_text(yaml.safe_dump({**tree, "datasets": {"held_out": entry}}))
    asks = {**ALONE, "evaluate": [str(files / "open.yaml")]}
    finish_all(opened(**asks))
    answers.write_text(json.dumps([{"answer": "one", "question_id": 0}]))
    assert {run.step.stem for run, _ in changed_runs(opened(**asks))} == {"open"}


def test_another_file_in_a_folder_of_annotations_is_a_change(opened, files):
    tables = files / "tables"
    tables.mkdir()
    text = (files / "clips.csv").read_text()
    (tables / "a.csv").write_text(text)
    (tables / "notes.txt").write_text("read by nobody")
    own = {**ALONE, "own_options": {"align": {"datasets.clips.annotations": str(tables)}}}
    finish_all(opened(**own))
    (tables / "notes.txt").write_text("still not read")
    assert changed_runs(opened(**own)) == []
    (tables / "a.csv").write_text(text.replace("Clip", "Other"))
    assert {run.step.stem for run, _ in changed_runs(opened(**own))} == {"align", "tune", "ask"}


def test_a_folder_that_no_experiment_made_is_not_touched(opened):
    plan = opened(**ALONE)
    run = plan.chains[0].runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.jsonl").write_text("")
    ((_, standing),) = changed_runs(plan)
    assert "was made by no experiment" in standing.changes[0]


def test_check_shows_the_cells_and_leaves_the_folder_alone(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["experiment", str(write_experiment(files)), "--out", str(out), "--check"]) == 0
    text = capsys.readouterr().out
    assert "run.init_lr: 0.001" in text
    assert "3 to do" in text
    assert "eval_ask: 8 questions" in text
    assert not out.exists()


def test_an_unknown_cell_behind_only_is_refused(files, capsys):
    assert main(["experiment", str(write_experiment(files)), "--only", "fats", "--check"]) == 2
    assert "--only: unknown cell 'fats', did you mean 'fast'?" in capsys.readouterr().err


def test_a_run_file_that_is_not_there_is_named_with_its_cell(opened, files):
    problems = refused(opened, **changed_cell(recipes=[str(files / "aligns.yaml")], data="own"))
    assert any("cells.other, aligns: recipes: there is no file" in text for text in problems)
    assert any("align.yaml" in text for text in problems)


def test_the_experiment_of_a_grid_is_written_out_as_it_was_resolved(opened, tmp_path):
    from video_llama.apps.experiment import _plain

    grid = {"lr": {"low": {}, "high": {"run.init_lr": 0.1}}}
    plain = yaml.safe_load(yaml.safe_dump(_plain(opened(cells={}, grid=grid).experiment)))
    assert plain["cells"] == {"low": {}, "high": {"options": {"run.init_lr": 0.1}}}
    assert plain["baseline"] == "low"
