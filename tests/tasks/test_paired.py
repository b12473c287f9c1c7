"""Paired differences against hand calculation, published data, and simulated truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.tasks.paired import (
    Difference,
    Mean,
    mean_with_interval,
    paired_difference,
)
from video_llama.tasks.statistics import Estimate
from video_llama.tasks.verdicts import holm, judge

SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
"""Hours of sleep more with the one drug than with the other: Student, Biometrika 6 (1908) 1."""


def compare(first, second, *, clips=None, measure="accuracy"):
    return paired_difference(first, second, clips=clips or range(len(first[0])), measure=measure)


def a_difference(value, p_value, *, detectable=0.04):
    # Of a normal distribution, 1.96 and 0.8416 standard errors.
    mean = Mean(value, 0.0, (detectable / 2.8016) ** 2, 1, 10**6)
    return Difference(Estimate(value, value - 0.1, value + 0.1), p_value, mean, 1, 9, 9)


@st.composite
def tables(draw):
    """Two systems, right or wrong, with the clips of their questions."""
    num_seeds, num_questions = draw(st.integers(1, 4)), draw(st.integers(2, 12))
    row = st.lists(st.integers(0, 1), min_size=num_questions, max_size=num_questions)
    seeds = st.lists(row, min_size=num_seeds, max_size=num_seeds)
    clips = draw(st.lists(st.integers(0, 5), min_size=num_questions, max_size=num_questions))
    return draw(seeds), draw(seeds), clips


def test_one_seed_and_one_question_per_clip_is_the_paired_t_test():
    found = compare([SLEEP], [[0.0] * 10], measure="loss")
    # As printed by every textbook: t = 4.062 at 9 degrees, p = 0.0028, 0.70 to 2.46.
    assert found.estimate.value == pytest.approx(1.58)
    assert found.estimate.low == pytest.approx(0.7001, abs=1e-4)
    assert found.estimate.high == pytest.approx(2.4599, abs=1e-4)
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)


def test_right_and_wrong_answers_get_one_more_of_each_kind():
    first, second = [1] * 9 + [0] + [1] * 10, [0] * 9 + [1] + [1] * 10
    found = compare([first], [second])
    # Of 22 pairs 10 and 2: 0.3636; variance (12 - 64 / 22) / 21 / 22 = 0.0197; t at 21: 2.0796.
    half = 2.0796 * math.sqrt((12 - 64 / 22) / 21 / 22)
    assert found.estimate.value == pytest.approx(0.4)
    assert found.estimate.low == pytest.approx(8 / 22 - half, abs=1e-5)
    assert found.estimate.high == pytest.approx(8 / 22 + half, abs=1e-5)


def test_seeds_and_clips_each_add_their_part():
    found = compare([[1, 2, 3], [3, 4, 8]], [[0] * 3] * 2, measure="loss")
    # Means 2 and 5 by seed, 2, 3 and 5.5 by clip, 3.5 of all. Mean squares: seeds 3 * 4.5 = 13.5
    # at 1 degree, clips 2 * 6.5 / 2 = 6.5 at 2, the rest 3 / 2 = 1.5.
    half = math.sqrt(12.7062**2 * 13.5 / 6 + 4.30265**2 * (6.5 - 1.5) / 6)
    assert found.estimate.value == pytest.approx(3.5)
    assert found.estimate.high == pytest.approx(3.5 + half, abs=1e-3)
    assert found.estimate.low == pytest.approx(3.5 - half, abs=1e-3)


def test_clips_with_many_questions_count_by_their_questions():
    found = compare([[1, 1, 1, 0, 4]], [[0] * 5], clips=["a", "a", "a", "b", "c"], measure="loss")
    # Mean 7 / 5; what clips leave over it: 3 - 4.2, 0 - 1.4, 4 - 1.4; t at 2 degrees: 4.30265.
    spread = 1.2**2 + 1.4**2 + 2.6**2
    half = 4.30265 * math.sqrt(3 / 2 * spread / 25)
    assert found.estimate.value == pytest.approx(1.4)
    assert found.estimate.high == pytest.approx(1.4 + half, abs=1e-4)
    assert (found.num_clips, found.num_questions) == (3, 5)


@given(tables())
def test_exchanging_the_systems_turns_the_sign(table):
    first, second, clips = table
    there = compare(first, second, clips=clips)
    back = compare(second, first, clips=clips)
    assert back.estimate.value == pytest.approx(-there.estimate.value)
    assert back.estimate.low == pytest.approx(-there.estimate.high)
    assert back.p_value == pytest.approx(there.p_value, rel=1e-4)
    words = {"better": "worse", "worse": "better"}
    (one,), (other,) = judge([there]), judge([back])
    assert other.word == words.get(one.word, one.word)


@given(tables())
def test_a_system_is_no_better_than_itself(table):
    first, _, clips = table
    found = compare(first, first, clips=clips)
    assert found.estimate.value == 0
    assert found.estimate.low <= 0 <= found.estimate.high
    assert judge([found])[0].word in ("no difference shown", "too few samples")


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_questions_and_of_seeds_changes_nothing(table, random):
    first, second, clips = table
    columns, rows = list(range(len(clips))), list(range(len(first)))
    random.shuffle(columns)
    random.shuffle(rows)
    mixed = [[[side[r][c] for c in columns] for r in rows] for side in (first, second)]
    there = compare(first, second, clips=clips)
    found = compare(*mixed, clips=[clips[c] for c in columns])
    assert found.estimate.low == pytest.approx(there.estimate.low)
    assert found.estimate.high == pytest.approx(there.estimate.high)


@given(tables(), st.integers(2, 4))
def test_asking_every_question_again_is_no_new_evidence(table, times):
    first, second, clips = table
    there = compare(first, second, clips=clips)
    again = compare(
        [row * times for row in first], [row * times for row in second], clips=clips * times
    )
    assert again.estimate.low == pytest.approx(there.estimate.low)
    assert again.estimate.high == pytest.approx(there.estimate.high)


@given(tables())
def test_intervals_hold_their_estimate_and_stay_possible(table):
    first, second, clips = table
    found = compare(first, second, clips=clips).estimate
    assert -1 <= found.low <= found.value <= found.high <= 1
    own = mean_with_interval(first, clips=clips, measure="accuracy")
    assert 0 <= own.low <= own.value <= own.high <= 1


@given(tables())
def test_an_interval_without_zero_is_a_p_value_below_five_percent(table):
    first, second, clips = table
    found = compare(first, second, clips=clips)
    if min(abs(found.estimate.low), abs(found.estimate.high)) < 1e-4:
        return
    excludes = found.estimate.low > 0 or found.estimate.high < 0
    # An estimate is put into its interval, which may then end at it.
    assert excludes == (found.p_value < 0.05) or found.estimate.value in (
        found.estimate.low,
        found.estimate.high,
    )


def test_one_clip_shows_nothing():
    found = compare([[1] * 9], [[0] * 9], clips=["a"] * 9)
    assert (found.estimate.low, found.estimate.high, found.p_value) == (-1, 1, 1)
    assert judge([found])[0].word == "too few samples"


def test_no_change_at_all_is_no_certainty():
    found = compare([[1] * 30], [[1] * 30])
    # One clip of 32 each way; t at 31 degrees: 2.0395.
    assert found.estimate.high == pytest.approx(2.0395 * math.sqrt(2 / 31 / 32), abs=1e-4)
    assert found.estimate.low == pytest.approx(-found.estimate.high)


def test_losses_that_differ_by_the_same_everywhere_do_differ():
    assert (
        judge([compare([[2.0] * 5], [[1.5] * 5], measure="loss")], lower_is_better=True)[0].word
        == "worse"
    )


def test_tables_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="seeds by 2 questions"):
        paired_difference([[1, 0, 1]], [[1, 0, 1]], clips=[1, 2], measure="accuracy")
    with pytest.raises(ValueError, match="seeds by 0 questions"):
        paired_difference([[]], [[]], clips=[], measure="accuracy")


def test_holm_multiplies_as_in_the_worked_example():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_that_is_real_alone_may_be_chance_among_many():
    alone, crowd = a_difference(0.2, 0.02), [a_difference(0.0, 0.5)] * 4
    assert judge([alone])[0].word == "better"
    among = judge([alone, *crowd], matters=0.06)[0]
    assert among.word == "no difference shown"
    assert among.p_value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("value", "lower_is_better", "word"),
    [(0.2, False, "better"), (-0.2, False, "worse"), (0.2, True, "worse"), (-0.2, True, "better")],
)
def test_a_lower_loss_and_a_higher_accuracy_are_better(value, lower_is_better, word):
    found = judge([a_difference(value, 0.001)], lower_is_better=lower_is_better)
    assert found[0].word == word


def test_what_could_not_have_been_seen_is_too_few_samples():
    words = [judge([a_difference(0.01, 0.7, detectable=d)])[0].word for d in (0.04, 0.06)]
    assert words == ["no difference shown", "too few samples"]
    limits = judge([a_difference(0.01, 0.7)] * 2, matters=[0.01, 0.1])
    assert [v.word for v in limits] == ["too few samples", "no difference shown"]


def test_a_detectable_difference_is_shown_four_times_in_five():
    rng = np.random.default_rng(0)
    zeros, num_clips = [[0.0] * 60], 60
    first = compare([rng.normal(0, 1, num_clips).tolist()], zeros, measure="loss")
    spread = judge([first])[0].detectable
    shown = sum(
        compare([rng.normal(spread, 1, num_clips).tolist()], zeros, measure="loss").p_value < 0.05
        for _ in range(300)
    )
    assert 0.7 < shown / 300 < 0.92


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize(("by_seed", "by_clip"), [(0.0, 0.0), (0.0, 0.5), (0.08, 0.5), (0.2, 0.0)])
def test_intervals_over_seeds_and_clips_cover_the_truth(num_seeds, by_seed, by_clip):
    rng = np.random.default_rng(num_seeds)
    num, num_clips, covered = 400, 40, 0
    for _ in range(num):
        clips = rng.normal(0, by_clip, num_clips) + rng.normal(0, by_seed, (num_seeds, 1))
        table = 0.3 + clips + rng.normal(0, 0.6, (num_seeds, num_clips))
        found = mean_with_interval(table.tolist(), clips=range(num_clips), measure="loss")
        covered += found.low <= 0.3 <= found.high
    # 95 %, less three standard errors of 400 tries.
    assert covered / num >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / num)
    # Two seeds may agree by luck, which must not narrow theirs: those cover more.
    if by_seed and num_seeds > 2:
        assert covered / num <= 0.995


@pytest.mark.parametrize("effect", [0.0, 0.25])
def test_intervals_of_answers_in_clips_cover_the_truth_and_raise_few_alarms(effect):
    rng = np.random.default_rng(7)
    num, covered, alarms = 600, 0, 0
    for _ in range(num):
        clips = np.repeat(np.arange(60), rng.integers(1, 5, 60))
        # A clip is hard for both, and may suit one of them: answers in a clip go together.
        hard, suits = rng.normal(0, 1, 60), rng.normal(0, 0.7, 60)
        sides = []
        for sign in (1, -1):
            threshold = 0.5 + hard[clips] + sign * (suits[clips] + effect) / 2
            sides.append([(threshold + rng.normal(0, 0.8, len(clips)) > 0).tolist()])
        found = compare(*sides, clips=clips.tolist())
        # Of each side, threshold and noise have variance 1 + 0.7^2 / 4 + 0.8^2.
        scale = math.sqrt(2 * (1 + 0.49 / 4 + 0.64))
        truth = (math.erf((0.5 + effect / 2) / scale) - math.erf((0.5 - effect / 2) / scale)) / 2
        covered += found.estimate.low <= truth <= found.estimate.high
        alarms += found.p_value < 0.05
    assert 0.93 <= covered / num <= 0.985
    if effect == 0:
        assert alarms / num <= 0.07


@pytest.mark.parametrize(("num_questions", "by_seed"), [(40, 0.0), (40, 0.1), (200, 0.0)])
def test_a_grid_of_equal_cells_with_two_seeds_raises_few_false_alarms(num_questions, by_seed):
    # Twenty cells against one baseline, of equal recipes whose seeds scatter.
    rng = np.random.default_rng(num_questions)
    num, alarms = 30, 0
    for _ in range(num):
        chances = rng.beta(1, 1, num_questions) + rng.normal(0, by_seed, (21, 2, 1))
        base, *cells = (rng.random((21, 2, num_questions)) < chances).astype(float)
        found = [compare(cell, base) for cell in cells]
        alarms += any(verdict.word in ("better", "worse") for verdict in judge(found))
    assert alarms / num <= 0.05


def test_seeds_that_agree_by_luck_are_no_certainty():
    # Both seeds 2.5 points better, each on other questions: means that agree prove nothing.
    base, cell = np.zeros((2, 40)), np.zeros((2, 40))
    base[0, :3] = base[1, 3:6] = 1
    cell[0, 6:10] = cell[1, 10:14] = 1
    found = compare(cell, base)
    assert found.estimate.low < 0 < found.estimate.high
    assert found.p_value > 0.05


@given(st.lists(tables(), min_size=1, max_size=5))
def test_what_is_not_shown_is_smaller_than_what_could_have_been(several):
    found = [compare(first, second, clips=clips) for first, second, clips in several]
    for difference, verdict in zip(found, judge(found), strict=True):
        if verdict.word in ("no difference shown", "too few samples"):
            assert abs(difference.mean.centre) <= verdict.detectable


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_correcting_keeps_the_order_and_never_lowers(p_values):
    corrected = holm(p_values)
    assert all(new >= old for new, old in zip(corrected, p_values, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)
