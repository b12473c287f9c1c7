"""Intervals and tests against published tables and hand calculation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.tasks.statistics import (
    Z_95,
    Estimate,
    difference,
    paired_p_value,
    proportion,
    student_quantile,
    student_two_sided,
)


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


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_quantiles_of_student_are_those_of_the_printed_table(degrees, quantile):
    # Any table of t, two-sided 5 %.
    assert student_quantile(0.975, degrees=degrees) == pytest.approx(quantile, abs=5e-4)
    assert student_two_sided(quantile, degrees=degrees) == pytest.approx(0.05, abs=3e-5)


@given(st.floats(0.01, 50))
def test_student_with_one_and_two_degrees_has_its_closed_form(value):
    one = 1 - 2 * math.atan(value) / math.pi
    two = 1 - value / math.sqrt(2 + value * value)
    assert student_two_sided(value, degrees=1) == pytest.approx(one, rel=1e-8)
    assert student_two_sided(value, degrees=2) == pytest.approx(two, rel=1e-8)


def test_student_with_many_degrees_is_normal():
    assert student_quantile(0.975, degrees=1e7) == pytest.approx(Z_95, abs=1e-6)


@given(st.floats(0.55, 0.9999), st.floats(1, 5000))
def test_a_quantile_is_where_the_probability_lies_above(probability, degrees):
    value = student_quantile(probability, degrees=degrees)
    beyond = 2 * (1 - probability)
    assert student_two_sided(value, degrees=degrees) == pytest.approx(beyond, rel=1e-6)
