"""Frames show what the scene says: measured on pixels, against geometry worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.toy.render import COLOUR_RGB, frame_times_s, render_clip, render_frames
from video_llama.toy.scenes import Event, Scene, Sound, Thing, sample_scene, thing_state


def scene_of(*things: Thing, event: Event | None = None, background_seed: int = 3) -> Scene:
    return Scene("k", "single", "test", 0, things, event, Sound("silence"), background_seed)


def thing_of(**changes: object) -> Thing:
    told = {
        "shape": "circle",
        "colour": "white",
        "motion": "still",
        "x": 30.0,
        "y": 34.0,
        "radius": 10.0,
        "speed": 0.0,
    }
    return Thing(**{**told, **changes})  # type: ignore[arg-type]


def bright(picture: np.ndarray) -> np.ndarray:
    """Where a picture is nearer to a white thing than to any background, bool[H, W]."""
    return picture.min(axis=2) > 185


def test_a_clip_has_sixteen_frames_an_eighth_of_a_second_apart():
    assert render_clip(scene_of()).shape == (16, 64, 64, 3)
    assert frame_times_s()[:3] == (0.0, 0.125, 0.25)


def test_equal_scenes_give_equal_bytes():
    scene = sample_scene(5, seed=1, split="train")
    assert render_clip(scene).tobytes() == render_clip(scene).tobytes()


def test_other_background_seeds_give_other_backgrounds():
    first, second = (render_clip(scene_of(background_seed=seed)) for seed in (1, 2))
    assert np.abs(first.astype(int) - second).mean() > 3


# By hand, in units of the radius squared: pi; (2 * 0.88) ** 2; base 1.96 and height 1.85;
# ten triangles with sides 1 and 0.46 that meet at 36 degrees.
AREAS = {
    "circle": math.pi,
    "square": 1.76**2,
    "triangle": 0.5 * 1.96 * 1.85,
    "star": 5 * 0.46 * math.sin(math.pi / 5),
}


@pytest.mark.parametrize("shape", AREAS)
def test_a_shape_covers_the_area_it_should(shape: str):
    # A pixel cut in half by the edge counts as half, so brightness is measured and not pixels.
    picture = render_clip(scene_of(thing_of(shape=shape)))[0].astype(float)
    ground = render_clip(scene_of())[0].astype(float)
    share = (picture - ground).sum(axis=2) / (picture[34, 30] - ground[34, 30]).sum()
    window = share[22:46, 18:42]
    assert window.sum() == pytest.approx(AREAS[shape] * 100, rel=0.06)


@pytest.mark.parametrize("shape", AREAS)
def test_a_shape_stays_within_its_radius_and_reaches_it(shape: str):
    rows, columns = np.nonzero(bright(render_clip(scene_of(thing_of(shape=shape)))[0]))
    reach = np.abs(np.stack([rows + 0.5 - 34, columns + 0.5 - 30])).max()
    assert 8.0 <= reach <= 10.5


@pytest.mark.parametrize("shape", AREAS)
def test_a_shape_is_its_own_mirror_image(shape: str):
    cover = bright(render_clip(scene_of(thing_of(shape=shape, x=32.0)))[0])
    assert (cover != cover[:, ::-1]).sum() <= 4


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["left", "right", "up", "down"]), st.floats(12, 20))
def test_a_moving_thing_is_where_the_closed_form_says(motion: str, speed: float):
    thing = thing_of(motion=motion, speed=speed, x=32.0, y=32.0, radius=8.0)
    for frame, time_s in zip(render_clip(scene_of(thing)), frame_times_s(), strict=True):
        rows, columns = np.nonzero(bright(frame))
        state = thing_state(thing, time_s=time_s)
        assert columns.mean() + 0.5 == pytest.approx(state.x, abs=0.4)
        assert rows.mean() + 0.5 == pytest.approx(state.y, abs=0.4)


def test_a_growing_thing_grows_by_its_speed():
    clip = render_clip(scene_of(thing_of(motion="grows", speed=3.0, radius=8.0)))
    radii = [math.sqrt(bright(frame).sum() / math.pi) for frame in clip]
    # From 8 - 3 * 0.875 at the start to 8 + 3 * 1.0 at 1.875 s.
    assert radii[0] == pytest.approx(5.375, abs=0.3)
    assert radii[-1] == pytest.approx(11.0, abs=0.3)


def test_a_colour_change_shows_both_colours_and_their_moment():
    event = Event("colour_change", "midway", 0.9, "blue")
    clip = render_clip(scene_of(thing_of(colour="red"), event=event))
    middles = clip[:, 31:37, 27:33].reshape(16, -1, 3).mean(axis=1)
    # Frame 7 is taken at 0.875 s, frame 8 at 1.0 s.
    assert np.abs(middles[:8] - COLOUR_RGB["red"]).max() <= 12
    assert np.abs(middles[8:] - COLOUR_RGB["blue"]).max() <= 12


@pytest.mark.parametrize("colour", COLOUR_RGB)
def test_a_colour_is_nearest_to_itself(colour: str):
    for seed in range(5):
        picture = render_clip(scene_of(thing_of(colour=colour), background_seed=seed))[0]
        middle = picture[31:37, 27:33].reshape(-1, 3).mean(axis=0)
        distance = {name: np.abs(middle - rgb).sum() for name, rgb in COLOUR_RGB.items()}
        assert min(distance, key=distance.__getitem__) == colour


def test_single_moments_show_what_the_clip_shows_then():
    scene = scene_of(thing_of(motion="right", speed=16.0))
    alone = render_frames(scene, times_s=(1.0,))[0].astype(int)
    # They differ by the flicker of 2 grey levels at most on either side.
    assert np.abs(alone - render_clip(scene)[8]).max() <= 5
