"""Cells on the same data: proved, paired, judged, and written down for people and programs."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
from dataclasses import replace

import pytest
from compared_runs import KEYS, an_answer, answers, write_answers, write_run

from video_llama.apps.compare import names_of
from video_llama.apps.compare_cells import compare_cells, save_comparison
from video_llama.apps.compare_plots import plot_accuracies
from video_llama.apps.compare_runs import CellRuns, read_cell, seed_pairs
from video_llama.apps.compare_tables import to_markdown
from video_llama.apps.compare_training import read_trainings, total
from video_llama.apps.compare_words import caveats, data_sentence, verdict_sentences
from video_llama.apps.main import main
from video_llama.common.errors import ConfigError, VideoLlamaError


def compare(cells, *, baseline="plain"):
    return compare_cells(cells, baseline=baseline, title="Wider?", question="Does width help?")


def a_cell(tmp_path, name, predictions, *, seed=0, **run):
    folder = tmp_path / name / f"seed_{seed}"
    train = (write_run(folder / "stage1", seed=seed, **run),) if run else ()
    evaluation = write_answers(folder / "eval_test", predictions)
    return CellRuns(name, seed, train, (evaluation,))


def score(comparison, cell, kind="all questions"):
    (row,) = [row for row in comparison.sets[0].rows if row.kind == kind]
    return next(found for found in row.scores if found.cell == cell)


@pytest.fixture
def two(tmp_path):
    """20 of 40 right and 38 of 40 right, on the same samples with another learning rate."""
    return [
        a_cell(tmp_path, "plain", answers(20), loss=1.0, run={"init_lr": 0.1}),
        a_cell(tmp_path, "wider", answers(38), loss=0.5, run={"init_lr": 0.2}),
    ]


def test_the_better_cell_is_called_better(two):
    comparison = compare(two)
    found = score(comparison, "wider")
    assert found.accuracy.value == pytest.approx(38 / 40)
    assert found.difference.estimate.value == pytest.approx(18 / 40)
    assert found.verdict.word == "better"
    ((word, sentence),) = verdict_sentences(comparison)
    assert word == "this run better"
    assert sentence.startswith(
        "this run of wider is better than that of plain: +45.0 points, 95 % interval ["
    )
    assert sentence.endswith("(40 questions on 40 clips, 1 seed).")


def test_the_cells_may_be_looked_at_from_the_other_side(two):
    found = score(compare(two, baseline="wider"), "plain")
    assert found.difference.estimate.value == pytest.approx(-18 / 40)
    assert found.verdict.word == "worse"


def test_few_questions_are_too_few_to_tell(tmp_path):
    cells = [
        a_cell(tmp_path, "plain", answers(4, num=8)),
        a_cell(tmp_path, "wider", answers(5, num=8)),
    ]
    ((word, sentence),) = verdict_sentences(compare(cells))
    assert word == "too few samples"
    assert "too few samples to tell this run of wider from that of plain" in sentence
    assert "points or more could have been seen" in sentence


def test_what_is_real_alone_and_not_among_many_is_said_so(tmp_path):
    plain, wider = answers(20), answers(26)
    others = [a_cell(tmp_path, f"same{i}", plain) for i in range(9)]
    cells = [a_cell(tmp_path, "plain", plain), a_cell(tmp_path, "wider", wider)]
    ((word, _),) = verdict_sentences(compare(cells))
    assert word == "this run better"
    word, sentence = verdict_sentences(compare([*cells, *others]))[0]
    assert word == "too few samples"
    assert sentence.startswith(
        "this run of wider would be better than that of plain were this the only comparison, but "
        "not as one of 10: "
    )


def test_questions_about_one_clip_count_together(tmp_path):
    # 4 clips of 10 questions each, of which one clip flips as a whole: no evidence.
    cells = [
        a_cell(tmp_path, "plain", answers(10, per_clip=10)),
        a_cell(tmp_path, "wider", answers(20, per_clip=10)),
    ]
    found = score(compare(cells), "wider")
    assert found.difference.num_clips == 4
    assert found.verdict.word == "too few samples"


def test_kinds_are_compared_by_themselves(tmp_path):
    def asked(num_right):
        colour = answers(20)
        motion = [an_answer(f"m{i}", i < num_right, kind="motion", clip=f"m{i}") for i in range(40)]
        return colour + motion

    cells = [a_cell(tmp_path, "plain", asked(4)), a_cell(tmp_path, "wider", asked(38))]
    comparison = compare(cells)
    assert score(comparison, "wider", "colour").difference.estimate.value == 0
    assert score(comparison, "wider", "motion").difference.estimate.value == pytest.approx(34 / 40)
    assert score(comparison, "wider").num_questions == 80


def test_probes_are_not_compared(tmp_path):
    probed = answers(0, probe="no_media")
    cells = [
        a_cell(tmp_path, "plain", answers(20) + probed),
        a_cell(tmp_path, "wider", answers(20) + probed),
    ]
    assert score(compare(cells), "wider").accuracy.value == pytest.approx(0.5)


def test_seeds_are_averaged_and_told(tmp_path):
    cells = [
        a_cell(tmp_path, name, answers(right), seed=seed)
        for name, rights in (("plain", (20, 22)), ("wider", (30, 32)))
        for seed, right in enumerate(rights)
    ]
    found = score(compare(cells), "wider")
    assert found.accuracy.value == pytest.approx(31 / 40)
    assert found.by_seed == {0: pytest.approx(30 / 40), 1: pytest.approx(32 / 40)}
    assert found.difference.num_seeds == 2
    assert found.difference.estimate.value == pytest.approx(10 / 40)


def test_a_seed_without_a_partner_is_named_and_left_out(tmp_path):
    cells = [
        a_cell(tmp_path, "plain", answers(20)),
        a_cell(tmp_path, "wider", answers(30)),
        a_cell(tmp_path, "wider", answers(0), seed=1),
    ]
    comparison = compare(cells)
    assert score(comparison, "wider").difference.estimate.value == pytest.approx(10 / 40)
    assert comparison.sets[0].notes == ("wider: only seeds 0 are paired; 1 is without a partner",)


def test_seeds_with_nothing_in_common_are_put_side_by_side():
    assert seed_pairs([0, 1], [0, 1]) == ([(0, 0), (1, 1)], [])
    pairs, told = seed_pairs([3, 2], [0])
    assert pairs == [(2, 0)]
    assert told == ["no seed in common with the baseline: 2 beside 0"]


def test_a_question_that_could_not_be_asked_counts_for_neither(tmp_path):
    broken = [an_answer("q0", False, clip="clip0.mp4", error="no video stream"), *answers(20)[1:]]
    cells = [a_cell(tmp_path, "plain", answers(20)), a_cell(tmp_path, "wider", broken)]
    comparison = compare(cells)
    assert score(comparison, "wider").difference.num_questions == 39
    assert comparison.sets[0].proofs[0].num_errors == 1
    assert not comparison.problems


def test_other_questions_are_named_and_the_common_ones_compared(tmp_path):
    cells = [a_cell(tmp_path, "plain", answers(20)), a_cell(tmp_path, "wider", answers(20)[:30])]
    comparison = compare(cells)
    (proof,) = comparison.sets[0].proofs
    assert (proof.num_both, proof.only_here, proof.only_there) == (30, 0, 10)
    assert comparison.problems == ["wider, test: question 'q30' was asked of the baseline alone"]
    assert score(comparison, "wider").difference.num_questions == 30


def test_one_key_for_two_questions_is_no_pair(tmp_path):
    other = [an_answer("q0", True, clip="another.mp4"), *answers(20)[1:]]
    cells = [a_cell(tmp_path, "plain", answers(20)), a_cell(tmp_path, "wider", other)]
    comparison = compare(cells)
    assert "of another.mp4 here and" in comparison.problems[0]
    assert score(comparison, "wider").difference.num_questions == 39


def test_a_cell_without_answers_is_told(tmp_path, two):
    silent = CellRuns("silent", 0, two[0].train)
    comparison = compare([*two, silent])
    assert ("missing", "silent and plain have no answered question in common.") in (
        verdict_sentences(comparison)
    )
    assert comparison.sets[0].notes == ("silent: no answers with seed 0",)


def test_the_ledgers_prove_the_same_data(two):
    is_same, text = data_sentence(compare(two))
    assert is_same
    assert text == (
        "1 pair of runs saw the same samples in the same order, by their ledgers (40 samples "
        "compared by key and media; ledgers hold no texts); all cells were asked the same "
        "questions."
    )


def test_another_sample_is_a_problem_that_is_named(tmp_path, two):
    odd = a_cell(tmp_path, "odd", answers(20), keys=[*KEYS[:-1], "other"], loss=1.0)
    comparison = compare([two[0], odd])
    assert comparison.problems == [
        "odd, seed 0, stage1: step 20, position 39: 'other' and 'clip39'"
    ]


def test_runs_are_paired_by_name_or_else_by_place(tmp_path):
    one = CellRuns("plain", 0, (write_run(tmp_path / "a" / "llama_stage1"),))
    other = CellRuns("wider", 0, (write_run(tmp_path / "b" / "llava_stage1"),))
    (proof,) = compare([one, other]).proofs
    assert (proof.recipe, proof.same.is_same) == ("llava_stage1 / llama_stage1", True)
    longer = CellRuns("longer", 0, (*other.train, write_run(tmp_path / "b" / "stage2")))
    assert compare([one, longer]).proofs[1].same.problem == "trained by longer alone"


def test_what_a_training_took_is_read_off_its_files(two):
    training = compare(two).trainings[0]
    # 3 x 4 and 4 parameters; 20 steps of 2 samples at 4 a second, on 2 processes.
    assert (training.num_trainable, training.num_steps) == (16, 20)
    assert (training.seconds, training.device_seconds) == (10.0, 20.0)
    assert (training.device, training.lowest_valid) == ("CPU", 0.5)


def test_the_runs_of_a_cell_are_added_up_and_its_seeds_averaged(tmp_path):
    cells = [
        CellRuns(
            "plain", seed, tuple(write_run(tmp_path / str(seed) / f"stage{i}") for i in (1, 2))
        )
        for seed in (0, 1)
    ]
    trainings = read_trainings(cells)
    found = total(trainings, cell="plain")
    # Two runs of 20 steps, 10 s and 2 processes with each seed.
    assert (found.num_seeds, found.num_steps, found.seconds) == (2, 40, 20.0)
    assert (found.device_seconds, found.num_trainable) == (40.0, 16)
    assert total(trainings, cell="other") is None


def test_only_settings_that_differ_are_listed(two):
    (setting,) = compare(two).settings
    assert (setting.key, setting.values) == ("run.init_lr", {"plain": "0.1", "wider": "0.2"})


@pytest.mark.parametrize(
    ("rates", "listed"), [((0.2, 0.2), "all runs"), ((0.1, 0.2), "stage1"), ((0.2, 0.1), "stage0")]
)
def test_what_differs_alike_in_all_runs_of_a_chain_is_listed_once(tmp_path, rates, listed):
    def chain(name, rates):
        runs = [
            write_run(tmp_path / name / f"stage{number}", run={"init_lr": rate, "min_lr": number})
            for number, rate in enumerate(rates)
        ]
        return CellRuns(name, 0, tuple(runs))

    (setting,) = compare([chain("plain", (0.1, 0.1)), chain("wider", rates)]).settings
    assert (setting.recipe, setting.key) == (listed, "run.init_lr")


def test_losses_of_the_last_steps_are_paired_by_clip(two):
    (losses,) = compare(two).losses
    # Of 20 steps the last 2, 4 samples of 2 tokens; 1.0 and 0.5 per token, the same beside.
    assert losses.difference.estimate.value == pytest.approx(-0.5)
    assert losses.difference.num_clips == 4
    assert losses.verdict.word == "better"


def test_where_nothing_was_asked_the_losses_speak(two):
    trained = [replace(runs, evaluations=()) for runs in two]
    ((word, sentence),) = verdict_sentences(compare(trained))
    assert word == "this run better"
    assert "by the training loss of the last steps: 0.5025 against 1.0025 nats" in sentence


def test_losses_over_other_tokens_are_not_compared(tmp_path, two):
    other = a_cell(tmp_path, "other", answers(20), num_targets=3)
    (losses,) = compare([two[0], other]).losses
    assert losses.difference is None
    assert "3 supervised tokens and 2" in losses.reason


def test_a_checkpoint_without_its_optimizer_still_tells_what_was_trained(two):
    for runs in two:
        (runs.train[0] / "checkpoints" / "step_0000020" / "optimizer.safetensors").unlink()
    training = compare(two).trainings[0]
    assert (training.num_trainable, training.seconds) == (16, 10.0)


def test_a_run_without_checkpoints_is_shown_with_what_is_known(two):
    shutil.rmtree(two[0].train[0] / "checkpoints")
    training = compare(two).trainings[0]
    assert (training.num_trainable, training.seconds, training.num_steps) == (None, None, 20)


def test_data_of_its_own_are_no_problem_where_they_were_asked_for(tmp_path, two):
    odd = a_cell(tmp_path, "odd", answers(20), keys=[*KEYS[:-1], "other"], loss=1.0)
    comparison = compare([*two, replace(odd, has_own_data=True)])
    assert comparison.problems == []
    is_same, text = data_sentence(comparison)
    assert is_same
    assert text.startswith("1 pair of runs saw the same samples")
    assert any("odd has data of its own" in caveat for caveat in caveats(comparison))


def test_many_cells_are_a_column_each(tmp_path, two):
    others = [a_cell(tmp_path, f"cell{i}", answers(2 * i)) for i in range(3)]
    text = to_markdown(compare([*two, *others]), pictures={})
    assert "| kind | plain (baseline) | wider | cell0 | cell1 | cell2 |" in text
    assert "| colour | 50.0 | 95.0 (this run better) | 0.0 (this run worse) |" in text


def test_cells_too_many_for_a_terminal_are_rows_of_what_was_shown(tmp_path, two, capsys):
    others = [a_cell(tmp_path, f"a_rather_long_name_{i}", answers(20)) for i in range(6)]
    comparison = compare([*two, *others])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_comparison(comparison, folder=tmp_path / "out")
    (shown,) = re.findall("differences shown(.*?)└", capsys.readouterr().out, re.S)
    assert "wider" in shown
    assert "long_name" not in shown
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| colour \| 50\.0 \| 95\.0 \(.*better\) \|.*$", text, re.M)
    assert row.count("| 50.0 ") == 7


def test_with_seeds_a_verdict_is_of_settings(tmp_path):
    cells = [
        a_cell(tmp_path, name, answers(right), seed=seed)
        for name, right in (("plain", 4), ("wider", 38))
        for seed in range(3)
    ]
    ((word, sentence),) = verdict_sentences(compare(cells))
    assert word == "better"
    assert sentence.startswith("wider is better than plain: +85.0 points")


def test_pieces_of_one_file_count_together(tmp_path):
    def asked(num_right):
        pieces = [an_answer(f"q{i}", i < num_right, clip=f"film{i % 2}.mp4") for i in range(20)]
        return [
            replace(p, media=(replace(p.media[0], start_s=float(i), end_s=i + 1.0),))
            for i, p in enumerate(pieces)
        ]

    cells = [a_cell(tmp_path, "plain", asked(2)), a_cell(tmp_path, "wider", asked(20))]
    assert score(compare(cells), "wider").difference.num_clips == 2


def test_questions_of_its_own_are_no_problem_where_they_were_asked_for(tmp_path, two):
    odd = a_cell(tmp_path, "odd", answers(20)[:30])
    comparison = compare([*two, replace(odd, has_own_data=True)])
    assert comparison.problems == []
    is_same, text = data_sentence(comparison)
    assert is_same
    assert text.endswith("; the other cells were asked the same questions.")


def test_lines_and_bars_in_names_cannot_break_tables(tmp_path):
    cells = [
        a_cell(tmp_path, name, answers(num, kind="a|b\nc"))
        for name, num in (("plain", 20), ("wider", 30))
    ]
    comparison = compare_cells(cells, baseline="plain", title="One\n# Two", question="")
    text = to_markdown(comparison, pictures={})
    assert text.startswith("# One # Two\n")
    assert "| a\\|b c | 50.0" in text


def test_a_file_in_place_of_the_output_folder_is_named(two, tmp_path, capsys):
    out = tmp_path / "a_file"
    out.write_text("mine")
    runs = [str(tmp_path / name) for name in ("plain", "wider")]
    assert main(["compare", *runs, "--out", str(out)]) == 2
    assert "--out" in capsys.readouterr().err
    assert out.read_text() == "mine"


@pytest.mark.parametrize("num_cells", [2, 8], ids=["few cells", "many cells"])
def test_names_in_brackets_are_shown_as_they_are(tmp_path, capsys, num_cells):
    cells = [
        a_cell(tmp_path, f"cell{number}", answers(20 * (number == 0), kind="[/kind]"))
        for number in range(num_cells)
    ]
    save_comparison(
        compare([replace(cell, name=f"[/{cell.name}]") for cell in cells], baseline="[/cell0]"),
        folder=tmp_path / "out",
    )
    said = capsys.readouterr().out
    assert "[/cell1]" in said
    assert "[/kind]" in said


def test_a_lone_cell_and_an_unknown_baseline_are_refused(two):
    with pytest.raises(ConfigError, match="a comparison takes two"):
        compare(two[:1])
    with pytest.raises(ConfigError, match="no finished cell 'best'"):
        compare(two, baseline="best")


def test_everything_is_written_down(two, tmp_path, capsys):
    out = tmp_path / "out"
    save_comparison(compare(two), folder=out)
    numbers = json.loads((out / "results.json").read_text())
    assert numbers["is_same_data"]
    (row,) = [row for row in numbers["sets"][0]["rows"] if row["kind"] == "colour"]
    assert row["scores"][1]["difference"]["estimate"]["value"] == pytest.approx(0.45)
    text = (out / "results.md").read_text()
    assert "| plain | 40 | 50.0 [34.6, 65.4] | baseline |  |" in text
    assert "| wider | 40 | 95.0 [" in text
    assert sorted(path.name for path in (out / "plots").iterdir()) == [
        "accuracy_test.png",
        "curves.png",
    ]
    said = " ".join(capsys.readouterr().out.split())
    assert "this run of wider is better than that of plain: +45.0 points" in said


def test_the_tables_show_every_picture(two, tmp_path):
    save_comparison(compare(two), folder=tmp_path)
    shown = re.findall(r"!\[.+\]\((.+)\)", (tmp_path / "results.md").read_text())
    assert sorted(shown) == sorted(f"plots/{path.name}" for path in tmp_path.glob("plots/*"))


def test_tables_are_written_even_where_nothing_can_draw(two, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(VideoLlamaError, match="not installed"):
        save_comparison(compare(two), folder=tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| plain | 40 | 50.0 [34.6, 65.4] | baseline |  |" in text
    assert "![" not in text


def test_a_picture_without_room_for_kinds_names_the_cells_and_what_was_shown(two, tmp_path):
    others = [a_cell(tmp_path, f"cell{i}", answers(20)) for i in range(74)]
    (asked,) = compare([*two, *others]).sets
    plot_accuracies(asked, path=tmp_path / "plot.svg")
    # matplotlib writes every text of an SVG as a comment beside its outlines.
    texts = set(re.findall("<!-- (.+?) -->", (tmp_path / "plot.svg").read_text(encoding="utf-8")))
    cells = {"plain", "wider", *(f"cell{i}" for i in range(74))}
    assert texts >= cells | {"the baseline", "better", "not told from it"}
    assert "colour" not in texts


def test_a_folder_of_seeds_is_one_cell(two, tmp_path):
    (found,) = read_cell(tmp_path / "plain", name="plain")
    assert found == two[0]


def test_an_evaluation_beside_a_run_is_found_by_its_name(two, tmp_path):
    run = tmp_path / "plain" / "seed_0" / "stage1"
    assert read_cell(run, name="x")[0].evaluations == ()
    (found,) = read_cell(run, name="x", evaluation="eval_test")
    assert found.evaluations == two[0].evaluations
    with pytest.raises(ConfigError, match="no evaluation 'eval_other'"):
        read_cell(run, name="x", evaluation="eval_other")
    with pytest.raises(ConfigError, match="neither a run"):
        read_cell(run / "checkpoints", name="x")


def test_names_are_where_paths_part(tmp_path):
    a, b = tmp_path / "a" / "stage2", tmp_path / "b" / "stage2"
    assert names_of([a, b]) == ["a/stage2", "b/stage2"]
    assert names_of([tmp_path, a]) == [tmp_path.name, "a/stage2"]


def test_the_verb_compares_two_folders(two, tmp_path, capsys):
    runs = [str(tmp_path / name) for name in ("plain", "wider")]
    out = tmp_path / "out"
    assert main(["compare", *runs, "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "this run of wider is better than that of plain" in said
    assert (out / "report.html").is_file()


def test_other_data_are_refused_and_compared_only_if_one_insists(tmp_path, two, capsys):
    a_cell(tmp_path, "odd", answers(20), keys=[*KEYS[:-1], "other"], loss=1.0)
    words = ["compare", str(tmp_path / "plain"), str(tmp_path / "odd")]
    out = tmp_path / "out"
    assert main([*words, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "odd, seed 0, stage1: step 20, position 39: 'other' and 'clip39'" in said
    assert not out.exists()
    assert main([*words, "--out", str(out), "--anyway"]) == 0
    page = (out / "report.html").read_text()
    assert page.index("Not the same data.") < page.index("<h2")


def test_one_folder_twice_is_a_mistake_that_is_named(two, tmp_path, capsys):
    assert main(["compare", str(tmp_path / "plain"), str(tmp_path / "plain")]) == 2
    assert "same folder as RUN_A" in capsys.readouterr().err
