"""Scenes of the toy world: what is to be seen and heard in a clip, in closed form.

A `Scene` says everything about one clip of 2 s: the things in it, the one event that may happen,
the sound. It draws no pixel and makes no wave: `thing_state` tells the renderer where a thing is
at any time. Sampling is deterministic by (split, seed, index).

Time mirror: geometry is laid out symmetrically about `MIRROR_S`, the middle of the 8 sampled
frames (0, 0.25, .. 1.75 s), so that every scene played backwards is again a scene of the world,
equally likely. That makes "the frames as an unordered set" an exact notion (see ceilings.py).

Units: pixels of a 64 x 64 picture, y downwards; seconds; hertz.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from video_llama.toy.words import (
    BINS,
    PITCHED_SOUNDS,
    PITCHES,
    SCENE_KINDS,
    SOUNDS,
    SPLITS,
    ThingWords,
    Wording,
    fits_split,
    wordings,
)
from video_llama.toy.words import COLOURS as COLOURS
from video_llama.toy.words import SHAPES as SHAPES

EventKind = Literal["colour_change", "bounce"]

SIZE_PX = 64
DURATION_S = 2.0
MIRROR_S = 0.875
PIP_S = 0.1
# Each bin lies between two sampled frames, so 2, 4 or 6 of the 8 frames come before the event;
# early and late mirror each other about MIRROR_S.
BIN_RANGE_S = {"early": (0.28, 0.38), "midway": (0.825, 0.925), "late": (1.37, 1.47)}
# In "order" scenes one thing moves in the first of these spans, the other in the second.
ORDER_SPANS_S = ((0.0, 0.8), (0.95, 1.75))
PITCH_RANGE_HZ = {"low": (260.0, 360.0), "high": (900.0, 1200.0)}
GLIDE_RANGE_HZ = (300.0, 1200.0)

_MARGIN_PX = 1.0
_STEP = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
_GROWTH = {"grows": 1.0, "shrinks": -1.0}
_WHOLE_CLIP_S = (-math.inf, math.inf)
EVENT_KINDS: dict[str, EventKind] = {"change": "colour_change", "bounce": "bounce"}


@dataclass(frozen=True)
class Thing:
    """One drawn thing.

    Args:
        shape: one of SHAPES.
        colour: one of COLOURS; the first colour if an event changes it.
        motion: one of MOTIONS; the first direction if an event turns it back.
        x: centre at MIRROR_S for an undisturbed motion over the whole clip, px; see `thing_state`.
        y: likewise, px.
        radius: likewise, px.
        speed: px/s of the centre, or of the radius for a thing that grows or shrinks; 0 if still.
        span_s: the motion happens between these two times; the thing rests before and after.
    """

    shape: str
    colour: str
    motion: str
    x: float
    y: float
    radius: float
    speed: float
    span_s: tuple[float, float] = _WHOLE_CLIP_S


@dataclass(frozen=True)
class Event:
    """What happens to the only thing of a scene.

    Args:
        kind: a change of colour, or a bounce: the thing turns back.
        bin: one of BINS.
        time_s: when, inside BIN_RANGE_S[bin].
        colour: the colour after a change; None for a bounce.
    """

    kind: EventKind
    bin: str
    time_s: float
    colour: str | None = None


@dataclass(frozen=True)
class Sound:
    """What is to be heard.

    Args:
        kind: one of SOUNDS.
        pitch: one of PITCHES for PITCHED_SOUNDS, else None.
        frequency_hz: of the tone; a glide goes between the ends of GLIDE_RANGE_HZ instead, so
            it is None there, as for noise and silence.
        pip_bin: one of BINS if kind is "pip", else None.
        pip_time_s: start of the pip, which lasts PIP_S.
        seed: for what the renderer draws itself: loudness, phase, noise.
    """

    kind: str
    pitch: str | None = None
    frequency_hz: float | None = None
    pip_bin: str | None = None
    pip_time_s: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """One clip: 0 to 2 things, at most one event (only with one thing), one sound.

    Args:
        key: unique name, "split-seed-index"; also a good file stem.
        kind: one of SCENE_KINDS; "pair" has two things moving together, "order" one after the
            other.
    """

    key: str
    kind: str
    split: str
    seed: int
    things: tuple[Thing, ...]
    event: Event | None
    sound: Sound
    background_seed: int
    duration_s: float = DURATION_S


@dataclass(frozen=True)
class ThingState:
    """A thing at one moment: centre and radius in px, colour as drawn then."""

    x: float
    y: float
    radius: float
    colour: str


@dataclass(frozen=True)
class Mix:
    """Shares the sampler draws from.

    Args:
        kinds: weight of each scene kind; those left out never come.
        pip: share of scenes whose sound is a single pip, any scene kind alike; the other seven
            sounds share the rest evenly.
        in_time: of pips in scenes with an event, the share that falls on the event; the others
            fall into one of the two other bins.
    """

    kinds: dict[str, float] = field(
        default_factory=lambda: {
            "empty": 0.1,
            "single": 0.25,
            "change": 0.2,
            "bounce": 0.2,
            "pair": 0.15,
            "order": 0.1,
        }
    )
    pip: float = 0.5
    in_time: float = 0.5

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(SCENE_KINDS))
        if unknown:
            raise ValueError(f"unknown scene kinds {unknown}; known are {list(SCENE_KINDS)}")
        if not any(weight > 0 for weight in self.kinds.values()):
            raise ValueError("at least one scene kind needs a weight above 0")
        for name in ("pip", "in_time"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, so it lies in [0, 1]")


DEFAULT_MIX = Mix()


def belongs_to_split(*, split: str, thing: Thing, event: Event | None) -> bool:
    """Tell whether a thing may appear in a split; see `words.fits_split`."""
    wording = Wording(
        1.0,
        (ThingWords(thing.shape, thing.colour, thing.motion),),
        last_colour=None if event is None else event.colour,
    )
    bounces = event is not None and event.kind == "bounce"
    return fits_split(wording, kind="bounce" if bounces else "single", split=split)


def thing_state(thing: Thing, *, time_s: float, event: Event | None = None) -> ThingState:
    """Place a thing at a moment.

    A motion moves the centre (or the radius) by speed x (t - MIRROR_S), with t held inside
    span_s. A bounce at time e replaces t by 2e - t after e. For speed 16 to the right, x = 32,
    and a bounce at 0.9 s: t = 0.875 gives 32.0, t = 0.9 gives 32.4, t = 0.925 gives 32.0 again.

    Args:
        thing: what to place.
        time_s: the moment, in seconds.
        event: the scene's event, which is the thing's if it is the only one.
    """
    moved_s = min(max(time_s, thing.span_s[0]), thing.span_s[1])
    colour = thing.colour
    if event is not None and time_s >= event.time_s:
        if event.kind == "bounce":
            moved_s = 2 * event.time_s - moved_s
        else:
            assert event.colour is not None
            colour = event.colour
    way = thing.speed * (moved_s - MIRROR_S)
    step_x, step_y = _STEP.get(thing.motion, (0.0, 0.0))
    growth = _GROWTH.get(thing.motion, 0.0)
    return ThingState(
        x=thing.x + way * step_x,
        y=thing.y + way * step_y,
        radius=thing.radius + way * growth,
        colour=colour,
    )


def sample_scene(index: int, *, seed: int, split: str, mix: Mix = DEFAULT_MIX) -> Scene:
    """Draw one scene; equal arguments give equal scenes, other splits or seeds unrelated ones.

    Args:
        index: number of the scene in its split, >= 0.
        seed: of the world.
        split: one of SPLITS; "composition" scenes show only held-out triples (and are never
            empty), the others never do.
        mix: shares of scene kinds and sounds.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known are {list(SPLITS)}")
    rng = random.Random(f"toy scene/{split}/{seed}/{index}")
    kinds = [kind for kind in mix.kinds if wordings(kind, split=split)]
    kind = rng.choices(kinds, weights=[mix.kinds[kind] for kind in kinds])[0]
    event, things = _draw_things(rng, kind=kind, split=split)
    return Scene(
        key=f"{split}-{seed}-{index:06d}",
        kind=kind,
        split=split,
        seed=seed,
        things=things,
        event=event,
        sound=_draw_sound(rng, event=event, mix=mix),
        background_seed=rng.getrandbits(31),
    )


def _draw_things(
    rng: random.Random, *, kind: str, split: str
) -> tuple[Event | None, tuple[Thing, ...]]:
    """Draw words, then geometry until all things keep inside the picture and apart."""
    table = wordings(kind, split=split)
    wording = rng.choices(table, cum_weights=_cumulated(kind, split=split))[0]
    event = None
    if kind in EVENT_KINDS:
        time_bin = rng.choice(BINS)
        time_s = rng.uniform(*BIN_RANGE_S[time_bin])
        event = Event(EVENT_KINDS[kind], time_bin, time_s, wording.last_colour)
    spans = ORDER_SPANS_S if kind == "order" else (_WHOLE_CLIP_S,) * 2
    while True:
        things = tuple(
            _draw_geometry(rng, words=words, kind=kind, event=event, span_s=span_s)
            for words, span_s in zip(wording.things, spans, strict=False)
        )
        if _fits(things, event=event):
            return event, things


@cache
def _cumulated(kind: str, *, split: str) -> tuple[float, ...]:
    """Add the probabilities of the wordings up."""
    return tuple(itertools.accumulate(w.probability for w in wordings(kind, split=split)))


def _draw_geometry(
    rng: random.Random,
    *,
    words: ThingWords,
    kind: str,
    event: Event | None,
    span_s: tuple[float, float],
) -> Thing:
    """Give a worded thing a place, a size and a speed; the caller checks that they fit."""
    alone = kind in ("single", "change", "bounce")
    if words.motion in _GROWTH:
        speed = 5.0 if kind == "order" else rng.uniform(2.4, 3.2)
        # Middling in the middle of the motion, whenever that is.
        middle_s = MIRROR_S if kind != "order" else sum(span_s) / 2
        radius = 8.5 - _GROWTH[words.motion] * speed * (middle_s - MIRROR_S)
    else:
        radius = rng.uniform(7.4, 10.5) if alone else rng.uniform(7.0, 9.0)
        speed_range = {"order": (16.0, 22.0), "pair": (12.0, 16.0)}.get(kind, (14.0, 20.0))
        speed = 0.0 if words.motion == "still" else rng.uniform(*speed_range)
    low, high = _MARGIN_PX + radius, SIZE_PX - _MARGIN_PX - radius
    x, y = rng.uniform(low, high), rng.uniform(low, high)
    if event is not None and event.kind == "bounce":
        # The turning point is what a mirrored bounce shares, so that is what is drawn evenly.
        step_x, step_y = _STEP[words.motion]
        way = speed * (event.time_s - MIRROR_S)
        x, y = x - way * step_x, y - way * step_y
    return Thing(words.shape, words.colour, words.motion, x, y, radius, speed, span_s)


def _fits(things: tuple[Thing, ...], *, event: Event | None) -> bool:
    """Check a time grid symmetric about MIRROR_S that covers all 16 frames."""
    for step in range(17):
        time_s = MIRROR_S + (step - 8) / 8
        states = [thing_state(thing, time_s=time_s, event=event) for thing in things]
        for state in states:
            reach = state.radius + _MARGIN_PX
            if not all(reach <= centre <= SIZE_PX - reach for centre in (state.x, state.y)):
                return False
        if len(states) == 2:
            gap = math.dist((states[0].x, states[0].y), (states[1].x, states[1].y))
            if gap < states[0].radius + states[1].radius + 2 * _MARGIN_PX:
                return False
    return True


def _draw_sound(rng: random.Random, *, event: Event | None, mix: Mix) -> Sound:
    """Draw the sound; only the bin of a pip looks at the event."""
    kind = "pip" if rng.random() < mix.pip else rng.choice(SOUNDS[:-1])
    seed = rng.getrandbits(31)
    if kind not in PITCHED_SOUNDS:
        return Sound(kind, seed=seed)
    pitch = rng.choice(PITCHES)
    frequency_hz = rng.uniform(*PITCH_RANGE_HZ[pitch])
    if kind != "pip":
        return Sound(kind, pitch, frequency_hz, seed=seed)
    if event is None:
        pip_bin = rng.choice(BINS)
        return Sound(kind, pitch, frequency_hz, pip_bin, rng.uniform(*BIN_RANGE_S[pip_bin]), seed)
    if rng.random() < mix.in_time:
        return Sound(kind, pitch, frequency_hz, event.bin, event.time_s, seed)
    pip_bin = rng.choice([other for other in BINS if other != event.bin])
    return Sound(kind, pitch, frequency_hz, pip_bin, rng.uniform(*BIN_RANGE_S[pip_bin]), seed)
