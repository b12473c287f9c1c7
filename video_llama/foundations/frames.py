"""Single frames of toy clips with their truth, after a round trip through H.264.

Shapes: K frames, H = W = 64 pixels, P = 64 patches of 8 x 8, 6 colours, 4 shapes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from video_llama.common.rng import fold
from video_llama.models.encoders.eva_vit_g import CLIP_MEAN, CLIP_STD
from video_llama.toy.codec import decode_frames, encode_mp4
from video_llama.toy.render import FRAMES_PER_S, NUM_FRAMES, frame_times_s, render_clip
from video_llama.toy.scenes import SIZE_PX, Scene, sample_scene, thing_state
from video_llama.toy.words import COLOURS, SHAPES

PLACE_SCALE_PX = 32.0
FRAMES_PER_CLIP = 8
_PATCH_PX = 8
_TIMES_S = frame_times_s()


@dataclass(frozen=True)
class Frames:
    """Frames and what is on them.

    Attributes:
        pixels: uint8[K, H, W, 3].
        presence: bool[K, 6, 4], a thing of that colour and shape is there.
        place: float[K, 6, 3], x, y and radius of the thing of a colour in units of
            PLACE_SCALE_PX, x and y from the middle of the picture; 0 where there is none.
        patch_shape: int64[K, P], shape of the thing that covers a patch's middle, -1 for none.
        patch_colour: int64[K, P], its colour.
    """

    pixels: Tensor
    presence: Tensor
    place: Tensor
    patch_shape: Tensor
    patch_colour: Tensor

    def take(self, rows: Tensor) -> Frames:
        """Return the frames of int64[B] rows."""
        return Frames(*(getattr(self, field.name)[rows] for field in fields(self)))


def normalise(pixels: Tensor) -> Tensor:
    """Turn uint8[K, H, W, 3] into what the encoders are fed, float[K, 3, H, W]."""
    scaled = (pixels.float() / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    return scaled.permute(0, 3, 1, 2).contiguous()


def corpus_seed(seed: int) -> int:
    """Return the seed of the foundations' scenes, never one that a world is made with."""
    return fold("foundations", seed)


def make_frames(num_clips: int, *, seed: int, split: str) -> Frames:
    """Render clips, encode and decode them, and keep half of their frames, drawn at random.

    Args:
        num_clips: clips of the default mix of scenes.
        seed: of the foundations.
        split: of the scenes.

    Returns:
        Frames with K = 8 * num_clips.
    """
    num_frames = num_clips * FRAMES_PER_CLIP
    frames = Frames(
        pixels=torch.empty(num_frames, SIZE_PX, SIZE_PX, 3, dtype=torch.uint8),
        presence=torch.zeros(num_frames, len(COLOURS), len(SHAPES), dtype=torch.bool),
        place=torch.zeros(num_frames, len(COLOURS), 3),
        patch_shape=torch.full((num_frames, (SIZE_PX // _PATCH_PX) ** 2), -1),
        patch_colour=torch.full((num_frames, (SIZE_PX // _PATCH_PX) ** 2), -1),
    )
    for index in range(num_clips):
        scene = sample_scene(index, seed=corpus_seed(seed), split=split)
        decoded = decode_frames(encode_mp4(render_clip(scene), frames_per_s=FRAMES_PER_S))
        kept = random.Random(scene.key).sample(range(NUM_FRAMES), FRAMES_PER_CLIP)
        for row, number in enumerate(kept, start=index * FRAMES_PER_CLIP):
            frames.pixels[row] = torch.from_numpy(decoded[number])
            _write_truth(frames, row, scene=scene, time_s=_TIMES_S[number])
    return frames


def _write_truth(frames: Frames, row: int, *, scene: Scene, time_s: float) -> None:
    """Fill one row of the truth from the closed form."""
    middles = torch.arange(SIZE_PX // _PATCH_PX) * _PATCH_PX + _PATCH_PX / 2
    for thing in scene.things:
        state = thing_state(thing, time_s=time_s, event=scene.event)
        colour, shape = COLOURS.index(state.colour), SHAPES.index(thing.shape)
        frames.presence[row, colour, shape] = True
        half = SIZE_PX / 2
        place = (state.x - half, state.y - half, state.radius)
        frames.place[row, colour] = torch.tensor(place) / PLACE_SCALE_PX
        covered = torch.hypot(middles[None] - state.x, middles[:, None] - state.y) < state.radius
        frames.patch_shape[row][covered.flatten()] = shape
        frames.patch_colour[row][covered.flatten()] = colour
