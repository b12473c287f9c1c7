"""The audio trunk of the toy ImageBind while it learns: what must stand in the vector it gives.

Everything that is to be heard in a segment is read by linear heads from the encoder's output
itself, a vector on a sphere of radius 20, since that is all the audio branch will get.

Shapes: K segments or pictures, D = 64 joint width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.common.types import AudioSpec
from video_llama.foundations.segments import (
    MAX_ONSETS,
    NONE,
    NUM_GLIDES,
    NUM_PITCH_BINS,
    Segments,
)
from video_llama.models.encoders.imagebind import ImageBind
from video_llama.toy.words import COLOURS, SHAPES

AUDIO_CONFIG = ImageBind.Config(
    trunk="audio",
    out_width=64,
    audio_width=64,
    audio_depth=2,
    audio_num_heads=4,
    audio_patch_size=8,
    audio_patch_stride=5,
    num_mel_bins=64,
    num_mel_frames=25,
    num_clips=8,
    clip_s=0.25,
    clip_policy="consecutive",
    vision_width=64,
    vision_depth=2,
    vision_num_heads=4,
    vision_patch_size=8,
    image_size=64,
)

NUM_VOICES = len(SHAPES) * len(COLOURS)
TEMPERATURE = 0.07
"""Of the contrast between kinds of things, as in CLIP and ImageBind."""


class Directions(nn.Module):
    """A direction for every class; what counts is the angle to it.

    A plain linear head would be content with classes that lie side by side on the large sphere,
    and no eye could then hit the right one.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, width))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map float[K, D] to logits float[K, classes]."""
        directions = functional.normalize(self.weight, dim=1)
        return functional.normalize(vectors, dim=1) @ directions.T / TEMPERATURE


class Listener(nn.Module):
    """The audio trunk and linear heads on what leaves it."""

    CLASSES = {
        "is_noise": 2,
        "onsets": MAX_ONSETS + 1,
        "pitch": NUM_PITCH_BINS,
        "glide": NUM_GLIDES,
    }
    NUMBERS = ("on_share", "on_middle", "loudness")

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ImageBind(AUDIO_CONFIG)
        width = AUDIO_CONFIG.out_width
        self.classes = nn.ModuleDict(
            {name: nn.Linear(width, number) for name, number in self.CLASSES.items()}
        )
        self.classes["voice"] = Directions(width, NUM_VOICES)
        self.numbers = nn.Linear(width, len(self.NUMBERS))

    def loss(self, segments: Segments) -> Tensor:
        """Compare what the heads read with the truth."""
        heard = embed(self.encoder, segments.mel)
        losses = []
        for name, head in self.classes.items():
            target = getattr(segments, name)
            known = target != NONE
            total = functional.cross_entropy(head(heard[known]), target[known], reduction="sum")
            losses.append(total / max(1, int(known.sum())))
        is_clip = segments.voice == NONE
        wanted = torch.stack([getattr(segments, name) for name in self.NUMBERS], dim=1)
        error = (self.numbers(heard) - wanted)[is_clip].abs()
        return torch.stack(losses).sum() + 4 * error.sum() / max(1, int(is_clip.sum()))

    def measure(self, segments: Segments) -> dict[str, float]:
        """Score the heads on held-out segments."""
        heard = embed(self.encoder, segments.mel)
        scores = {}
        for name, head in self.classes.items():
            target = getattr(segments, name)
            known = target != NONE
            if known.any():
                hit = head(heard[known]).argmax(1) == target[known]
                scores[name] = hit.float().mean().item()
        has_pitch = segments.pitch != NONE
        bins = self.classes["pitch"](heard[has_pitch]).argmax(dim=1)
        near = (bins - segments.pitch[has_pitch]).abs() <= 1
        scores["pitch_near"] = near.float().mean().item()
        is_clip = segments.voice == NONE
        for column, name in enumerate(self.NUMBERS):
            error = (self.numbers(heard)[:, column] - getattr(segments, name))[is_clip].abs()
            scores[f"{name}_error"] = error.mean().item()
        return scores


def audio_spec() -> AudioSpec:
    """Return what the audio trunk is fed."""
    spec = AUDIO_CONFIG.media_spec()
    assert isinstance(spec, AudioSpec)
    return spec


def embed(encoder: ImageBind, steps: Tensor) -> Tensor:
    """Map float[K, ...] mels or frames to float[K, D], each as a row of one step."""
    mask = torch.ones(len(steps), 1, dtype=torch.bool)
    return encoder(steps[:, None], mask).tokens[:, 0, 0]
