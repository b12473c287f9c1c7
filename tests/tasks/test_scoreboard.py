"""Counting right answers and holding them against bars and ceilings."""

from __future__ import annotations

import json

import pytest

from video_llama.common.errors import ConfigError
from video_llama.tasks.predictions import NO_PROBE, Prediction
from video_llama.tasks.scoreboard import read_ceilings, score, to_metrics


def predictions(kind, num_right, num_wrong, probe=NO_PROBE):
    return [
        Prediction(f"{kind}{i}", probe, kind, "open", "q", "a", "b", i < num_right)
        for i in range(num_right + num_wrong)
    ]


def only_row(answers, **settings):
    (row,) = score(answers, **settings)
    return row


def test_an_accuracy_is_right_answers_over_questions():
    row = only_row(predictions("colour", 3, 1))
    assert (row.score.num, row.score.num_correct, row.score.accuracy.value) == (4, 3, 0.75)
    assert row.score.passes is None


def test_a_bar_inside_the_interval_passes_and_one_above_it_fails():
    # 81 of 263: 0.308 in [0.255, 0.366], Newcombe 1998.
    answers = predictions("colour", 81, 182)
    assert only_row(answers, bars={"colour": 0.36}).score.passes
    assert not only_row(answers, bars={"colour": 0.37}).score.passes


def test_a_probe_is_compared_on_the_questions_asked_under_it():
    answers = predictions("colour", 8, 8) + predictions("colour", 2, 6, probe="no_media")
    probe = only_row(answers).probes["no_media"]
    assert probe.without.accuracy.value == 1.0
    assert probe.score.accuracy.value == 0.25
    assert probe.p_value == pytest.approx(2 / 2**6)


def test_a_probe_may_lie_five_points_above_its_lowest_ceiling():
    ceilings = {"colour": {"chance": 0.1, "blind": 0.2, "deaf": 1.0}}
    answers = predictions("colour", 4, 0) + predictions("colour", 4, 0, probe="no_media")
    probe = only_row(answers, ceilings=ceilings).probes["no_media"]
    assert probe.score.at_most == pytest.approx(0.25)
    assert not probe.score.passes


def test_without_sound_a_question_about_pictures_must_keep_its_bar():
    ceilings = {"colour": {"blind": 0.2, "deaf": 1.0}}
    answers = predictions("colour", 20, 0) + predictions("colour", 2, 18, probe="sound_muted")
    row = only_row(answers, ceilings=ceilings, bars={"colour": 0.9})
    assert row.probes["sound_muted"].score.at_least == 0.9
    assert row.probes["sound_muted"].score.passes is False


def test_questions_that_could_not_be_asked_count_nowhere_and_are_named():
    broken = Prediction("bad", NO_PROBE, "colour", "open", "q", "a", "", False, error="x.mp4: gone")
    answers = [*predictions("colour", 1, 0), broken]
    metrics = to_metrics(score(answers), predictions=answers)
    assert metrics["num_questions"] == 1
    assert metrics["unusable"] == {"bad": "x.mp4: gone"}


def test_the_macro_average_weighs_kinds_alike():
    answers = predictions("colour", 1, 0) + predictions("shape", 0, 3)
    metrics = to_metrics(score(answers), predictions=answers)
    assert metrics["macro_accuracy"] == 0.5
    assert metrics["micro_accuracy"] == 0.25
    assert json.loads(json.dumps(metrics)) == metrics


def test_a_set_without_ceilings_has_none(tmp_path):
    assert read_ceilings(tmp_path) == {}


def test_a_ceilings_file_of_another_form_is_refused(tmp_path):
    (tmp_path / "ceilings.json").write_text('{"colour": 0.5}')
    with pytest.raises(ConfigError, match=r"ceilings\.json"):
        read_ceilings(tmp_path)


def test_a_bar_with_a_star_pools_the_kinds_it_matches():
    answers = [
        *predictions("mc_colour", 3, 1),
        *predictions("mc_shape", 4, 8),
        *predictions("colour", 0, 4),
    ]
    ceilings = {"mc_colour": {"blind": 0.2}, "mc_shape": {"blind": 0.6, "deaf": 1.0}}
    rows = score(answers, ceilings=ceilings, bars={"mc_*": 0.9})
    pool = rows[-1]
    assert (pool.kind, pool.score.num, pool.score.num_correct) == ("mc_*", 16, 7)
    # A quarter of the questions at .2, the rest at .6.
    assert pool.ceilings == {"blind": pytest.approx(0.5)}
    assert to_metrics(rows, predictions=answers)["num_questions"] == 20


def free_answer(key, prediction, *, answer="red", kind="colour", form="open"):
    correct = prediction == answer
    return Prediction(key, NO_PROBE, kind, form, "q", answer, prediction, correct)


def test_leniently_a_free_answer_may_be_a_sentence_and_an_option_may_not():
    answers = [
        free_answer("1", "red"),
        free_answer("2", "It is a red ball."),
        free_answer("3", "It is blue."),
        free_answer("4", "not red", kind="mc", form="multiple_choice"),
    ]
    metrics = to_metrics(score(answers), predictions=answers)
    assert metrics["kinds"]["colour"]["accuracy"] == pytest.approx(1 / 3)
    assert metrics["lenient"]["kinds"] == {"colour": pytest.approx(2 / 3), "mc": 0.0}
    assert metrics["lenient"]["micro_accuracy"] == 0.5
    assert metrics["lenient"]["macro_accuracy"] == pytest.approx(1 / 3)
