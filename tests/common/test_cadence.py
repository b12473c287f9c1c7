import pytest

from video_llama.common.cadence import parse_cadence


def due_steps(value, *, steps_per_epoch, num_steps):
    cadence = parse_cadence(value)
    return [
        step
        for step in range(1, num_steps + 1)
        if cadence.is_due(step, steps_per_epoch=steps_per_epoch, num_steps=num_steps)
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, [4, 8, 12]),
        (2, [8, 12]),
        ("2 epochs", [8, 12]),
        ("5 steps", [5, 10, 12]),
        ("1 step", list(range(1, 13))),
        (" 100 steps ", [12]),
    ],
)
def test_it_is_due_every_so_often_and_at_the_end(value, expected):
    assert due_steps(value, steps_per_epoch=4, num_steps=12) == expected


@pytest.mark.parametrize("value", [0, -1, "0 steps", "steps", "5", "1.5 steps", "5 hours"])
def test_what_is_no_cadence_is_refused_with_an_example(value):
    with pytest.raises(ValueError, match="'500 steps'; found"):
        parse_cadence(value)
