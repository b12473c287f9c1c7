"""What encoders must be fed: which steps of a medium, and the shape of each.

Imported from `common.types`; nothing is decoded here.

Shapes: T time steps.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Resize = Literal["squash", "short_side_crop", "pad_square"]
Filter = Literal["bicubic_smooth", "bicubic", "bilinear"]
MelRecipe = Literal["kaldi", "whisper", "clap"]


@dataclass(frozen=True)
class VideoSpec:
    """What an encoder of pictures must be fed; an image is a video of one frame.

    Attributes:
        num_frames: frames chosen from a clip, T.
        image_size: side of the square input in pixels.
        mean: per channel (red, green, blue), on the 0..1 scale.
        std: per channel, on the 0..1 scale.
        frame_policy: which frames are chosen, a name in `processors.video.FRAME_POLICIES`.
        resize: how a frame becomes the square: "squash" changes its proportions, "short_side_crop"
            cuts the middle out of it, "pad_square" puts bars of the mean colour beside it.
        filter: "bicubic_smooth" smooths when it shrinks, as Pillow does; "bicubic" and "bilinear"
            are torch's without smoothing.
    """

    num_frames: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    frame_policy: str = "segment_start"
    resize: Resize = "squash"
    filter: Filter = "bicubic_smooth"

    @property
    def num_steps(self) -> int:
        """T, the most steps an encoder is fed."""
        return self.num_frames

    @property
    def step_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one step."""
        return (3, self.image_size, self.image_size)


@dataclass(frozen=True)
class AudioSpec:
    """What an encoder of sound must be fed: log-mel pictures of short clips.

    Attributes:
        num_clips: clips cut from a track, T.
        clip_s: length of one clip in seconds.
        sample_rate_hz: rate the track is resampled to.
        num_mel_bins: rows of a mel picture.
        num_mel_frames: columns of a mel picture; shorter ones are padded with zeros.
        mean: of log-mel values over the pretraining data.
        std: of log-mel values over the pretraining data.
        clip_policy: where clips start, a name in `processors.audio.CLIP_POLICIES`.
        recipe: how a clip becomes a log-mel picture, a name in
            `processors.spectrograms.MEL_RECIPES`.
    """

    num_clips: int
    clip_s: float
    sample_rate_hz: int
    num_mel_bins: int
    num_mel_frames: int
    mean: float
    std: float
    clip_policy: str = "clips"
    recipe: MelRecipe = "kaldi"

    @property
    def num_steps(self) -> int:
        """T, the most steps an encoder is fed."""
        return self.num_clips

    @property
    def step_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one step."""
        return (1, self.num_mel_bins, self.num_mel_frames)


MediaSpec = VideoSpec | AudioSpec

LATER_FIELDS: dict[str, Any] = {
    "resize": "squash",
    "filter": "bicubic_smooth",
    "recipe": "kaldi",
}
"""Fields the specs did not always have, and what stood in their place."""


def spec_identity(spec: MediaSpec) -> dict[str, Any]:
    """Return the fields of a spec that tell it from others, for the keys of caches.

    A later field counts only where it differs from what was done before there was such a field, so
    that what was cached then is still found.
    """
    fields = asdict(spec)
    return {
        name: value
        for name, value in fields.items()
        if name not in LATER_FIELDS or value != LATER_FIELDS[name]
    }
