"""Toy clips with their truth for every patch of every frame, after a round trip through H.264.

A patch knows of the thing whose middle lies on it.

Shapes: C clips, T = 8 frames, H = W = 64 pixels, P = 16 patches of 16 x 16, 6 colours, 4 shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from video_llama.foundations.frames import PLACE_SCALE_PX, corpus_seed
from video_llama.toy.codec import decode_frames, encode_mp4
from video_llama.toy.render import FRAMES_PER_S, NUM_FRAMES, frame_times_s, render_clip
from video_llama.toy.scenes import SIZE_PX, Scene, Thing, sample_scene, thing_state
from video_llama.toy.words import COLOURS, SHAPES

PATCH_PX = 16
SIDE = SIZE_PX // PATCH_PX
STRIDE = 2
"""Every second frame is taken, as `segment_start` takes 8 of 16."""

_TIMES_S = frame_times_s()[::STRIDE]


@dataclass(frozen=True)
class Clips:
    """Clips and what is on them.

    Attributes:
        pixels: uint8[C, T, H, W, 3].
        presence: bool[C, T, 6, 4], a thing of that colour and shape is there.
        place: float[C, T, 6, 3], x, y and radius of the thing of a colour in units of
            PLACE_SCALE_PX, x and y from the middle of the picture; 0 where there is none.
        thing: int64[C, T, P], number of the thing on a patch, 4 * colour + shape; -1 for none.
        offset: float[C, T, P, 3], its x, y (from the middle of the patch) and radius in units of
            PATCH_PX.
    """

    pixels: Tensor
    presence: Tensor
    place: Tensor
    thing: Tensor
    offset: Tensor

    def take(self, rows: Tensor) -> Clips:
        """Return the clips of int64[B] rows."""
        return Clips(*(getattr(self, field.name)[rows] for field in fields(self)))


def make_clips(num_clips: int, *, seed: int, split: str) -> Clips:
    """Render clips, encode and decode them, and keep the frames a model is shown.

    Args:
        num_clips: of the default mix of scenes.
        seed: of the foundations.
        split: of the scenes.
    """
    steps = (num_clips, len(_TIMES_S))
    clips = Clips(
        pixels=torch.empty(*steps, SIZE_PX, SIZE_PX, 3, dtype=torch.uint8),
        presence=torch.zeros(*steps, len(COLOURS), len(SHAPES), dtype=torch.bool),
        place=torch.zeros(*steps, len(COLOURS), 3),
        thing=torch.full((*steps, SIDE * SIDE), -1),
        offset=torch.zeros(*steps, SIDE * SIDE, 3),
    )
    for row in range(num_clips):
        scene = sample_scene(row, seed=corpus_seed(seed), split=split)
        decoded = decode_frames(encode_mp4(render_clip(scene), frames_per_s=FRAMES_PER_S))
        for step, number in enumerate(range(0, NUM_FRAMES, STRIDE)):
            clips.pixels[row, step] = torch.from_numpy(decoded[number])
        for step, time_s in enumerate(_TIMES_S):
            for thing in scene.things:
                _write_truth(clips, (row, step), thing=thing, scene=scene, time_s=time_s)
    return clips


def _write_truth(
    clips: Clips, where: tuple[int, int], *, thing: Thing, scene: Scene, time_s: float
) -> None:
    """Fill in one thing on one frame from the closed form."""
    now = thing_state(thing, time_s=time_s, event=scene.event)
    colour, shape = COLOURS.index(now.colour), SHAPES.index(thing.shape)
    half = SIZE_PX / 2
    clips.presence[where][colour, shape] = True
    place = torch.tensor((now.x - half, now.y - half, now.radius))
    clips.place[where][colour] = place / PLACE_SCALE_PX
    column, line = (min(max(int(at // PATCH_PX), 0), SIDE - 1) for at in (now.x, now.y))
    patch = line * SIDE + column
    clips.thing[where][patch] = colour * len(SHAPES) + shape
    inside = ((column + 0.5) * PATCH_PX, (line + 0.5) * PATCH_PX)
    offset = torch.tensor((now.x - inside[0], now.y - inside[1], now.radius))
    clips.offset[where][patch] = offset / PATCH_PX
