"""Plain containers become dataclasses, or a list of everything that is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.common.errors import ConfigError
from video_llama.common.parsing import describe, parse, parse_value


@dataclass(frozen=True)
class Inner:
    rank: int = 4
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    width: int
    rate: float = 0.5
    mode: Literal["fast", "slow"] = "fast"
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner | None = None
    limit: int | None = None
    free: dict[str, Any] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width must be at least 1, found {self.width}")
        if self.rate > 1:
            raise ConfigError([f"rate {self.rate} is above 1", "and that is too much"])


def wrong(node):
    problems = []
    assert parse(Outer, node, where="x", problems=problems) is None
    return problems


def right(node):
    problems = []
    value = parse(Outer, node, where="x", problems=problems)
    assert problems == []
    return value


def test_values_are_converted_to_the_declared_types():
    value = right(
        {"width": 3, "rate": 1, "pair": [1, 2], "inner": {"names": ["a"]}, "bars": {"k": 1}}
    )
    assert value == Outer(3, 1.0, "fast", (1.0, 2.0), Inner(4, ("a",)), None, {}, {"k": 1.0})
    assert isinstance(value.rate, float)


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ({}, "x.width: missing, expected an integer"),
        ({"width": True}, "x.width: expected an integer, found True"),
        ({"width": 1.5}, "x.width: expected an integer, found 1.5"),
        ({"width": None}, "x.width: expected an integer, found null"),
        ({"width": 1, "rate": "1e-4x"}, "x.rate: expected a number, found '1e-4x'"),
        ({"width": 1, "mode": "slo"}, "expected one of fast, slow, found 'slo', did you mean"),
        ({"width": 1, "pair": [1]}, "x.pair: expected 2 values, found 1"),
        ({"width": 1, "pair": [1, "b"]}, "x.pair[1]: expected a number, found 'b'"),
        ({"width": 1, "pair": 3}, "x.pair: expected a list of a number, found 3"),
        ({"width": 1, "limit": "a"}, "x.limit: expected an integer or null, found 'a'"),
        ({"width": 1, "inner": 3}, "x.inner: expected a mapping or null, found 3"),
        ({"width": 1, "inner": {"rnak": 1}}, "x.inner.rnak: unknown key, did you mean 'rank'?"),
        ({"width": 1, "inner": {"names": [1]}}, "x.inner.names[0]: expected a string, found 1"),
        ({"width": 1, "free": 3}, "x.free: expected a mapping, found 3"),
        ({"width": 1, "bars": {"k": "v"}}, "x.bars.k: expected a number, found 'v'"),
        ({"width": 0}, "x: width must be at least 1, found 0"),
        ({"width": 1, 5: 6}, "x.5: unknown key"),
        ([1], "x: expected a mapping, found a list"),
    ],
)
def test_a_mistake_is_told_with_key_expectation_and_finding(node, problem):
    assert len(problems := wrong(node)) == 1
    assert problem in problems[0]


def test_all_mistakes_of_a_mapping_are_told_at_once():
    assert len(wrong({"rate": "a", "mode": 1, "pair": 2, "inner": {"a": 1, "b": 2}, "c": 3})) == 7


def test_a_range_check_may_name_several_mistakes():
    assert wrong({"width": 1, "rate": 2.0}) == ["x: rate 2.0 is above 1", "x: and that is too much"]


def test_keys_that_are_read_elsewhere_are_suggested():
    problems = []
    parse(Outer, {"width": 1, "wieghts": 1}, where="x", problems=problems, also_known=("weights",))
    assert "did you mean 'weights'?" in problems[0]


def test_types_are_described_in_words():
    assert describe(tuple[int, ...] | None) == "a list of an integer or null"
    assert describe(Inner) == "a mapping"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
HINTS = [int, float, str, bool, int | None, tuple[int, ...], tuple[int, str], Inner | None]
HINTS += [dict[str, int], Literal["a", "b"], Any]


@given(plain, st.sampled_from(HINTS))
def test_anything_is_either_a_value_or_a_problem(node, hint):
    problems = []
    value = parse_value(hint, node, where="x", problems=problems)
    assert all(problem.startswith("x") for problem in problems)
    if not problems:
        again = []
        assert parse_value(Any, value, where="x", problems=again) is value
        assert hint in (Any, Inner | None, int | None) or value is not None
