"""What scenes the words of the toy world can make."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest

from video_llama.toy import words
from video_llama.toy.words import ThingWords, wordings

HELD_OUT = [
    ThingWords(shape, colour, motion)
    for shape in words.SHAPES
    for colour in words.COLOURS
    for motion in words.MOTIONS
    if ThingWords(shape, colour, motion).is_held_out
]


def test_seven_triples_of_every_shape_are_held_out():
    assert Counter(thing.shape for thing in HELD_OUT) == dict.fromkeys(words.SHAPES, 7)


def test_every_motion_is_held_out_as_often_as_any_other():
    assert Counter(thing.motion for thing in HELD_OUT) == dict.fromkeys(words.MOTIONS, 4)


def test_what_is_held_out_is_held_out_backwards_too():
    for thing in HELD_OUT:
        assert ThingWords(thing.shape, thing.colour, words.OPPOSITE[thing.motion]) in HELD_OUT


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
