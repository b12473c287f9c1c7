"""Intervals and tests against published tables and hand calculation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.tasks.statistics import Estimate, difference, paired_p_value, proportion


@pytest.mark.parametrize(
    ("num_correct", "num_total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_those_of_newcombes_table(num_correct, num_total, low, high):
    # Newcombe, Statist. Med. 17 (1998) 857, table I, method 3.
    estimate = proportion(num_correct, num_total)
    assert estimate.low == pytest.approx(low, abs=5e-5)
    assert estimate.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090)],
)
def test_differences_are_those_of_newcombes_table(first, second, low, high):
    # Newcombe, Statist. Med. 17 (1998) 873, table II, method 10.
    estimate = difference(proportion(*first), proportion(*second))
    assert estimate.low == pytest.approx(low, abs=5e-5)
    assert estimate.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_estimate_and_mirrors(counts):
    correct, total = counts
    estimate, mirrored = proportion(correct, total), proportion(total - correct, total)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.low == pytest.approx(1 - mirrored.high)


@pytest.mark.parametrize("counts", [(0, 0), (2, 1), (-1, 3)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="not a proportion"):
        proportion(*counts)


def test_one_against_nine_has_the_p_value_of_the_hand_calculation():
    assert paired_p_value(1, 9) == pytest.approx(2 * (1 + 10) / 1024)


def test_equal_splits_prove_nothing():
    assert paired_p_value(0, 0) == 1.0
    assert paired_p_value(5, 5) == 1.0


def test_a_bar_fails_only_outside_the_interval():
    estimate = Estimate(0.94, 0.92, 0.955)
    assert estimate.may_reach(0.95)
    assert not estimate.may_reach(0.96)
    assert estimate.may_stay_below(0.93)
    assert not estimate.may_stay_below(0.91)
