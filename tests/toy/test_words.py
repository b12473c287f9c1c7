"""What scenes the words of the toy world can make."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest

from video_llama.toy import words
from video_llama.toy.words import ThingWords, wordings


def test_one_motion_of_seven_is_held_out_for_each_colour_and_shape():
    held_out = Counter(
        (colour, shape)
        for colour in words.COLOURS
        for shape in words.SHAPES
        for motion in words.MOTIONS
        if ThingWords(shape, colour, motion).is_held_out
    )
    assert len(held_out) == 24
    assert set(held_out.values()) == {1}


@pytest.mark.parametrize("split", words.SPLITS)
@pytest.mark.parametrize("kind", words.SCENE_KINDS)
def test_the_probabilities_of_a_kind_add_up_to_one(kind, split):
    table = wordings(kind, split=split)
    if (kind, split) == ("empty", "composition"):
        assert table == ()
    else:
        assert sum(wording.probability for wording in table) == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "pair", "count"),
    [
        ("single", ("shape", "motion"), 28),
        ("single", ("shape", "colour"), 24),
        ("bounce", ("shape", "colour"), 24),
    ],
)
def test_what_questions_name_together_is_evenly_likely(kind, pair, count):
    shares = Counter()
    for wording in wordings(kind, split="train"):
        key = tuple(getattr(wording.things[0], name) for name in pair)
        shares[key] += wording.probability
    assert list(shares.values()) == [pytest.approx(float(Fraction(1, count)))] * count


def test_the_thirty_pairs_of_colours_of_a_change_are_evenly_likely():
    shares = Counter()
    for wording in wordings("change", split="train"):
        shares[wording.things[0].colour, wording.last_colour] += wording.probability
    assert list(shares.values()) == [pytest.approx(1 / 30)] * 30


def test_a_bounce_shows_both_of_its_directions():
    red_square = words.Wording(1.0, (ThingWords("square", "red", "up"),))
    triples = words.triples_of(red_square, kind="bounce")
    assert [triple.motion for triple in triples[0]] == ["up", "down"]


def test_no_wording_of_two_things_repeats_a_colour_a_shape_or_a_motion():
    for wording in wordings("pair", split="composition"):
        first, second = wording.things
        assert first.shape != second.shape
        assert first.colour != second.colour
        assert first.motion != second.motion
