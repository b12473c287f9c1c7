"""Pictures of toy scenes: a pure function from a `Scene` to frames.

Things are signed distance fields with antialiased edges on a varied, noisy background. Nothing
here writes files or draws scenes at random; all chance comes from the scene's `background_seed`.

Shapes: T frames, H = W = 64 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from video_llama.toy.scenes import SIZE_PX, Scene, ThingState, thing_state

NUM_FRAMES = 16
FRAMES_PER_S = 8

COLOUR_RGB = {
    "red": (214, 42, 44),
    "green": (44, 176, 66),
    "blue": (48, 84, 222),
    "yellow": (228, 206, 50),
    "purple": (164, 60, 196),
    "white": (242, 242, 242),
}

# Thing colours vary by this much per channel, so that a colour is a region and not a point.
_COLOUR_JITTER = 10
_FLICKER = 2
_GRID_SIDE = 6

Floats = NDArray[Any]


def frame_times_s() -> tuple[float, ...]:
    """Return when the frames of a clip are taken, in seconds."""
    return tuple(index / FRAMES_PER_S for index in range(NUM_FRAMES))


def render_clip(scene: Scene) -> NDArray[np.uint8]:
    """Draw all frames of a scene.

    Args:
        scene: what is to be seen; equal scenes give equal bytes.

    Returns:
        uint8[T, H, W, 3], red, green, blue; frame i shows second i / 8.
    """
    return render_frames(scene, times_s=frame_times_s())


def render_frames(scene: Scene, *, times_s: tuple[float, ...]) -> NDArray[np.uint8]:
    """Draw a scene at given moments.

    Args:
        scene: what is to be seen.
        times_s: moments in seconds; the flicker of the picture hangs on the place in this list.

    Returns:
        uint8[len(times_s), H, W, 3].
    """
    rng = np.random.default_rng(scene.background_seed)
    picture = np.repeat(_background(rng)[None], len(times_s), axis=0)
    for thing in scene.things:
        tint = rng.integers(-_COLOUR_JITTER, _COLOUR_JITTER + 1, 3).astype(np.float32)
        states = [thing_state(thing, time_s=time_s, event=scene.event) for time_s in times_s]
        _paint(picture, shape=thing.shape, states=states, tint=tint)
    flicker = rng.integers(0, 2 * _FLICKER + 1, picture.shape, dtype=np.uint8)
    frames: NDArray[np.uint8] = np.clip(picture + flicker - (_FLICKER - 0.5), 0, 255).astype(
        np.uint8
    )
    return frames


def _paint(
    picture: Floats, *, shape: str, states: Sequence[ThingState], tint: NDArray[np.float32]
) -> None:
    """Paint a thing onto float[T, H, W, 3], in place and only where it ever comes."""
    x, y, radius = (
        np.array(values, dtype=np.float32)[:, None, None]
        for values in zip(*((s.x, s.y, s.radius) for s in states), strict=True)
    )
    columns, rows = _span(x, radius), _span(y, radius)
    # A picture's row i spans i..i+1, so its middle lies at i + 0.5.
    middles = np.arange(SIZE_PX, dtype=np.float32) + 0.5
    distance = _DISTANCES[shape](
        middles[None, None, columns] - x, middles[None, rows, None] - y, radius
    )
    cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
    rgb = np.array([COLOUR_RGB[state.colour] for state in states], dtype=np.float32) + tint
    window = picture[:, rows, columns]
    window += cover * (rgb[:, None, None, :] - window)


def _span(centre: Floats, radius: Floats) -> slice:
    """Return the rows or columns that a thing touches in any frame, with a pixel to spare."""
    first, last = float((centre - radius).min()) - 2, float((centre + radius).max()) + 2
    return slice(max(0, math.floor(first)), min(SIZE_PX, math.ceil(last)))


def _background(rng: np.random.Generator) -> Floats:
    """Draw a muted ground: a coarse random field in two greyish colours, with fine grain."""
    grey = rng.uniform(45, 120, 2)
    tints = grey[:, None] + rng.uniform(-18, 18, (2, 3))
    field = _upsample(rng.random((_GRID_SIDE, _GRID_SIDE), dtype=np.float32))[..., None]
    grain = rng.standard_normal((SIZE_PX, SIZE_PX, 1), dtype=np.float32) * rng.uniform(2, 7)
    ground: Floats = (tints[0] * (1 - field) + tints[1] * field + grain).astype(np.float32)
    return ground


def _upsample(grid: Floats) -> Floats:
    """Interpolate a coarse square grid linearly to the picture's size."""
    at = np.linspace(0, len(grid) - 1, SIZE_PX, dtype=np.float32)
    low = np.minimum(at.astype(np.int64), len(grid) - 2)
    share = at - low
    weights = np.zeros((SIZE_PX, len(grid)), dtype=np.float32)
    weights[np.arange(SIZE_PX), low] = 1 - share
    weights[np.arange(SIZE_PX), low + 1] = share
    field: Floats = weights @ grid @ weights.T
    return field


def _circle(x: Floats, y: Floats, radius: Floats) -> Floats:
    """Signed distance to a circle, px, negative inside; y downwards in all of these."""
    return np.hypot(x, y) - radius


def _square(x: Floats, y: Floats, radius: Floats) -> Floats:
    """Signed distance to an upright square with about the circle's area."""
    return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius


def _triangle(x: Floats, y: Floats, radius: Floats) -> Floats:
    """Signed distance to a triangle that stands on its base, tip up."""
    half_base, foot = 0.98, 0.85
    height = 1 + foot
    length = math.hypot(half_base, height)
    sides = (np.abs(x) * height - (y + radius) * half_base) / length
    return np.maximum(sides, y - foot * radius)


def _star(x: Floats, y: Floats, radius: Floats) -> Floats:
    """Signed distance to a five-pointed star, tip up, folded into one tenth of it."""
    along, across = -y, np.abs(x)
    notch_angle = math.pi / 5
    normal_along, normal_across = -math.sin(notch_angle), math.cos(notch_angle)
    # Two mirrorings at the first notch bring 180 degrees down to 36.
    for _ in range(2):
        beyond = np.maximum(along * normal_along + across * normal_across, 0.0)
        along = along - 2 * beyond * normal_along
        across = np.abs(across - 2 * beyond * normal_across)
    inner = 0.46
    notch_along, notch_across = inner * math.cos(notch_angle), inner * math.sin(notch_angle)
    length = math.hypot(1 - notch_along, notch_across)
    return ((along - radius) * notch_across + across * (1 - notch_along)) / length


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star}
