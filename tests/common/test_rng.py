"""Randomness is a function of its names, and only of them."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.common.rng import choose, fold, permutation, shuffled, uniform

PARTS = st.lists(st.one_of(st.integers(), st.text(max_size=8)), max_size=4)


@given(PARTS, PARTS)
def test_two_names_share_a_number_only_if_they_are_equal(left, right):
    assert (fold(*left) == fold(*right)) == (left == right)


@given(PARTS)
def test_a_number_is_a_legal_seed_for_every_library(parts):
    assert 0 <= fold(*parts) < 2**63


def test_word_borders_and_types_count():
    names = [("ab", "c"), ("a", "bc"), ("abc",), (1, 2), (12,), ("1", "2"), (2, 1), ()]
    assert len({fold(*name) for name in names}) == len(names)


def test_another_process_with_another_hash_seed_folds_to_the_same_number():
    code = "from video_llama.common.rng import fold; print(fold(7, 'webvid', 3))"
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "1"}, capture_output=True, check=True
    )
    assert int(out.stdout) == fold(7, "webvid", 3)


def test_a_float_is_refused():
    with pytest.raises(TypeError, match="float"):
        fold(0.5)  # type: ignore[arg-type]


def test_uniform_numbers_fill_the_unit_interval_evenly():
    draws = np.array([uniform("draw", i) for i in range(4000)])
    counts = np.histogram(draws, bins=10, range=(0, 1))[0]
    assert counts.sum() == 4000
    # chi square with 9 degrees of freedom: 27.9 is exceeded once in a thousand
    assert ((counts - 400) ** 2 / 400).sum() < 27.9


@given(st.integers(0, 300), st.integers(0, 2**63 - 1))
def test_a_permutation_holds_every_index_once(length, seed):
    assert sorted(permutation(length, seed=seed).tolist()) == list(range(length))


def test_all_orders_of_four_come_equally_often():
    counts: dict[tuple[int, ...], int] = {}
    for i in range(4800):
        order = tuple(permutation(4, seed=fold("order", i)).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    # chi square with 23 degrees of freedom: 49.7 is exceeded once in a thousand
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 49.7


def test_neighbouring_seeds_give_unrelated_orders():
    first, second = (permutation(2000, seed=seed) for seed in (5, 6))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert (first == second).sum() < 10


def test_shuffled_and_chosen_values_are_the_given_ones():
    assert sorted(shuffled("abcd", seed=3)) == list("abcd")
    assert {choose("abc", seed=seed) for seed in range(60)} == set("abc")
