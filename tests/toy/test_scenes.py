"""The toy world's scenes: determinism, splits, geometry."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.toy import scenes, words
from video_llama.toy.scenes import Event, Mix, Thing, sample_scene, thing_state

SCENES = [sample_scene(index, seed=1, split="train") for index in range(600)]
ALL_THINGS = [
    words.ThingWords(shape, colour, motion)
    for shape in words.SHAPES
    for colour in words.COLOURS
    for motion in words.MOTIONS
]
MOVING_RIGHT = Thing("circle", "red", "right", x=32.0, y=20.0, radius=8.0, speed=16.0)


def test_equal_seeds_give_equal_scenes_and_other_seeds_other_ones():
    assert sample_scene(7, seed=3, split="test") == sample_scene(7, seed=3, split="test")
    assert sample_scene(7, seed=3, split="test") != sample_scene(7, seed=4, split="test")


def test_splits_share_no_scene():
    worlds = [
        {replace(sample_scene(index, seed=0, split=split), key="", split="") for index in range(99)}
        for split in ("train", "valid", "test")
    ]
    assert len(worlds[0] | worlds[1] | worlds[2]) == 297


def shown_triples(scene):
    shown = set()
    for thing in scene.things:
        shown.add((thing.colour, thing.shape, thing.motion))
        if scene.event is not None and scene.event.kind == "bounce":
            shown.add((thing.colour, thing.shape, words.OPPOSITE[thing.motion]))
        elif scene.event is not None:
            shown.add((scene.event.colour, thing.shape, thing.motion))
    return shown


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_held_out_triples_appear_in_the_composition_split_only(split):
    composed, learned = (
        set().union(*(shown_triples(sample_scene(i, seed=1, split=name)) for i in range(400)))
        for name in ("composition", split)
    )
    held_out = {
        (thing.colour, thing.shape, thing.motion) for thing in ALL_THINGS if thing.is_held_out
    }
    assert held_out <= composed
    assert not held_out & learned


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 10**6), frame=st.integers(0, 15))
def test_things_stay_inside_the_picture_and_apart(index, frame):
    scene = sample_scene(index, seed=5, split="train")
    states = [thing_state(thing, time_s=frame / 8, event=scene.event) for thing in scene.things]
    for state in states:
        assert state.radius >= 5
        assert state.radius <= min(state.x, state.y, 64 - state.x, 64 - state.y)
    if len(states) == 2:
        first, second = states
        apart = ((first.x - second.x) ** 2 + (first.y - second.y) ** 2) ** 0.5
        assert apart > first.radius + second.radius


def test_a_motion_to_the_right_adds_speed_times_seconds():
    assert thing_state(MOVING_RIGHT, time_s=0.0).x == pytest.approx(32 - 16 * 0.875)
    assert thing_state(MOVING_RIGHT, time_s=1.875).x == pytest.approx(48.0)


def test_a_bounce_turns_the_motion_back_at_its_time():
    bounce = Event("bounce", "midway", 0.9)
    # 25 ms after the turning point the thing is where it was 25 ms before: 32 + 16 x 0.
    assert thing_state(MOVING_RIGHT, time_s=0.925, event=bounce).x == pytest.approx(32.0)
    assert thing_state(MOVING_RIGHT, time_s=0.9, event=bounce).x == pytest.approx(32.4)


def test_a_colour_change_happens_at_its_time():
    change = Event("colour_change", "late", 1.4, "blue")
    colours = [thing_state(MOVING_RIGHT, time_s=t, event=change).colour for t in (1.39, 1.4)]
    assert colours == ["red", "blue"]


@pytest.mark.parametrize(("time_bin", "before"), [("early", 2), ("midway", 4), ("late", 6)])
def test_two_four_or_six_of_the_eight_frames_come_before_an_event(time_bin, before):
    for end_s in scenes.BIN_RANGE_S[time_bin]:
        assert sum(frame * 0.25 < end_s for frame in range(8)) == before


def test_the_bins_mirror_each_other_about_the_middle_frame_time():
    for time_bin, (start_s, stop_s) in scenes.BIN_RANGE_S.items():
        mirrored = scenes.BIN_RANGE_S[words.MIRRORED_BIN[time_bin]]
        assert mirrored == pytest.approx((1.75 - stop_s, 1.75 - start_s))


def test_in_order_scenes_exactly_one_thing_moves_at_a_time():
    scene = next(scene for scene in SCENES if scene.kind == "order")
    first, second = scene.things

    def moves(thing, start_s, stop_s):
        return thing_state(thing, time_s=start_s) != thing_state(thing, time_s=stop_s)

    assert moves(first, 0.0, 0.75)
    assert not moves(second, 0.0, 0.9)
    assert moves(second, 1.0, 1.75)
    assert not moves(first, 0.9, 1.875)


def test_the_two_things_of_a_scene_differ_in_colour_shape_and_motion():
    for scene in SCENES:
        if len(scene.things) == 2:
            first, second = scene.things
            assert first.colour != second.colour
            assert first.shape != second.shape
            assert first.motion != second.motion


def test_half_of_the_pips_fall_on_the_event():
    pips = [s for s in SCENES if s.sound.kind == "pip" and s.event is not None]
    on_event = sum(scene.sound.pip_time_s == scene.event.time_s for scene in pips)
    # Half of about 125: three standard deviations are about 17.
    assert abs(on_event - len(pips) / 2) < 3 * (len(pips) / 4) ** 0.5


def test_a_mix_is_obeyed():
    mix = Mix(kinds={"bounce": 1.0}, pip=0.0)
    drawn = [sample_scene(index, seed=0, split="valid", mix=mix) for index in range(40)]
    assert Counter(scene.kind for scene in drawn) == {"bounce": 40}
    assert not any(scene.sound.kind == "pip" for scene in drawn)


def test_a_mix_refuses_kinds_it_does_not_know():
    with pytest.raises(ValueError, match="unknown scene kinds"):
        Mix(kinds={"explosion": 1.0})


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="known are .*composition"):
        sample_scene(0, seed=0, split="training")
