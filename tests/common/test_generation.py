from __future__ import annotations

import re

import pytest

from video_llama.common.generation import GenerationSettings


def test_the_defaults_are_greedy() -> None:
    assert GenerationSettings().temperature == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        ("repetition_penalty", float("nan")),
        ("length_penalty", float("nan")),
        ("length_penalty", 1e6),
        ("length_penalty", -1e6),
        ("num_beams", 0),
        ("num_beams", 5000),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
    ],
)
def test_a_senseless_setting_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{field} is {value}; it must be ")):
        GenerationSettings(**{field: value})
