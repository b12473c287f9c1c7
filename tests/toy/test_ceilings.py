"""Ceilings against numbers worked out by hand from the rules of the world."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from video_llama.toy.ceilings import Ceilings, ceilings, ceilings_by_kind
from video_llama.toy.plan import HELD_OUT_SPLITS, MIXES
from video_llama.toy.scenes import Mix

PIPS = Mix(kinds={"change": 1.0}, pip=1.0, in_time=0.5)


def test_without_order_a_motion_is_known_up_to_its_opposite():
    # Six motions come in pairs that look alike, "still" does not: (6 x 1/2 + 1) / 7.
    found = ceilings("motion", media="video")
    assert found.order_blind == pytest.approx((6 * 0.5 + 1) / 7)
    assert (found.chance, found.blind) == pytest.approx((1 / 7, 1 / 7))
    assert found.deaf == 1


def test_without_order_first_and_last_colour_are_a_coin():
    for kind in ("first_colour", "last_colour"):
        found = ceilings(kind, media="video")
        assert found == Ceilings(pytest.approx(1 / 6), pytest.approx(1 / 6), 1.0, 0.5)


def test_without_order_early_and_late_cannot_be_told_apart():
    # Two of three bins look alike: (2 x 1/2 + 1) / 3.
    assert ceilings("when", media="video").order_blind == pytest.approx(2 / 3)


def test_without_order_the_side_of_a_bounce_is_lost_in_the_middle_bin_only():
    # (2 x 1 + 1/2) / 3.
    assert ceilings("first_direction", media="video").order_blind == pytest.approx(5 / 6)


def test_a_pip_tells_the_blind_as_much_of_when_as_it_is_in_time():
    assert ceilings("when", mix=PIPS).blind == pytest.approx(0.5)
    # Half of the scenes have a pip: 1/2 x 1/2 + 1/2 x 1/3.
    mix = Mix(kinds={"change": 1.0}, pip=0.5)
    assert ceilings("when", mix=mix).blind == pytest.approx(5 / 12)


def test_a_pip_helps_to_put_shuffled_frames_in_order():
    # Middle bin (1/3): which colour was first is a coin. Early or late (2/3): the pip lies in the
    # event's bin half of the time and in either other bin a quarter, so the guess by the pip is
    # right with 1/2 (pip early or late, event there) + 1/8 (pip in the middle: a coin).
    expected = 1 / 3 * 1 / 2 + 2 / 3 * (1 / 2 + 1 / 8)
    assert ceilings("first_colour", mix=PIPS).order_blind == pytest.approx(expected)


def test_in_time_needs_both_media():
    found = ceilings("in_time", mix=PIPS)
    # Shuffled frames show a middle bin (1/3) as it is. Otherwise the event may be early or late.
    # Of the "yes" all pips then lie early or late, of the "no" half do and half lie in the
    # middle; so a pip in the middle says no, any other is best answered yes: "yes" is always
    # right, "no" half of the time.
    assert (found.chance, found.blind, found.deaf) == (0.5, 0.5, 0.5)
    assert found.order_blind == pytest.approx(1 / 3 + 2 / 3 * (1 + 1 / 2) / 2)


@pytest.mark.parametrize("kind", ["sound", "pitch"])
def test_the_deaf_guess_the_sound_at_chance(kind):
    found = ceilings(kind)
    assert found.deaf == pytest.approx(found.chance)
    assert found.blind == found.order_blind == 1


def test_a_blind_count_is_a_third():
    assert ceilings("count", mix=Mix(kinds={"empty": 1, "single": 1, "order": 1})).blind == (
        pytest.approx(1 / 3)
    )


def test_four_options_leave_a_quarter_to_the_blind():
    found = ceilings("mc_first_direction", media="video")
    assert found.blind == found.chance == 0.25


def test_without_order_options_help_where_the_opposite_is_not_among_them():
    # The opposite is one of 3 distractors out of 6 half of the time: a coin then, sure otherwise.
    found = ceilings("mc_motion", media="video")
    assert found.order_blind == pytest.approx((6 * (0.5 * 0.5 + 0.5) + 1) / 7)


def test_a_coin_is_the_chance_between_two_things():
    found = ceilings("who_first", mix=Mix(kinds={"order": 1.0}), media="video")
    assert found.chance == 0.5
    assert found.blind == pytest.approx(1 / 4)
    assert found.order_blind == pytest.approx(1 / 2, abs=0.001)


def test_ceilings_by_kind_are_plain_data():
    found = ceilings_by_kind(["pitch", "pitch"], media="audio")
    assert found == {"pitch": {"chance": 0.5, "blind": 1.0, "deaf": 0.5, "order_blind": 1.0}}


def test_a_kind_no_scene_is_asked_is_refused():
    with pytest.raises(ValueError, match="pair_colour"):
        ceilings("pair_colour", mix=Mix(kinds={"single": 1.0}))


@pytest.mark.slow
@pytest.mark.parametrize("media", ["video", "both"])
@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_the_shipped_ceilings_are_what_the_code_computes(media, split):
    kinds = ("first_colour", "when", "pair_motion", "mc_motion")
    shipped = ceilings_by_kind(kinds, mix=MIXES[split], split=split, media=media)
    computed = {
        kind: asdict(ceilings(kind, mix=MIXES[split], split=split, media=media)) for kind in kinds
    }
    assert shipped == computed
