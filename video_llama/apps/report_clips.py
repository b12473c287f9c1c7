"""Pictures of clips for the report: the frames with their seconds, and the sound as a mel picture.

What is shown is read from the media files again, at their own size; it is what a person would
see, not the normalised squares of an encoder.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from video_llama.common.errors import MediaError
from video_llama.common.types import AudioSpec
from video_llama.processors.audio import log_mel, read_audio
from video_llama.processors.pictures import read_picture
from video_llama.processors.video import read_frames
from video_llama.tasks.predictions import Shown

FRAME_SIDE = 128
NUM_FRAMES = 8
SAMPLE_RATE_HZ = 16000
NUM_MEL_BINS = 64
LONGEST_SOUND_S = 30.0

MEL_COLOURS = np.array(
    [[13, 8, 40], [84, 20, 98], [178, 50, 90], [240, 122, 60], [252, 236, 164]], dtype=np.float64
)
"""Colours from silent to loud, evenly spaced."""


@dataclass(frozen=True)
class Frame:
    """One frame of a film strip.

    Attributes:
        uri: the picture as a data URI.
        time_s: second of the clip, None for a still picture.
    """

    uri: str
    time_s: float | None


@dataclass(frozen=True)
class Strip:
    """What can be shown of one clip.

    Attributes:
        frames: in their order, none if there are no pictures.
        sound: mel picture as a data URI, None if there is no sound.
        problem: why something could not be shown.
    """

    frames: tuple[Frame, ...] = ()
    sound: str | None = None
    problem: str | None = None


def draw_strip(media: Sequence[Shown]) -> Strip:
    """Draw what a question was about.

    Args:
        media: the question's media items.

    Returns:
        The strip; files that are gone or broken are named in it.
    """
    frames: list[Frame] = []
    sound: str | None = None
    problems: list[str] = []
    for item in media:
        try:
            if item.kind == "audio":
                sound = _draw_sound(item)
            else:
                frames += _draw_frames(item)
        except MediaError as error:
            problems.append(str(error))
    return Strip(tuple(frames), sound, "; ".join(problems) or None)


def colour_mel(mel: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour a log-mel picture from its quietest to its loudest value.

    Args:
        mel: float32[F, W], low frequencies first.

    Returns:
        uint8[F, W, 3], low frequencies at the bottom. A picture of one value is all quiet.
    """
    low, high = float(mel.min()), float(mel.max())
    place = (mel - low) / ((high - low) or 1.0) * (len(MEL_COLOURS) - 1)
    index = np.minimum(place.astype(int), len(MEL_COLOURS) - 2)
    share = (place - index)[..., None]
    mixed = MEL_COLOURS[index] * (1 - share) + MEL_COLOURS[index + 1] * share
    coloured: NDArray[np.uint8] = mixed.round().astype(np.uint8)[::-1]
    return coloured


def _draw_frames(item: Shown) -> list[Frame]:
    """Read a clip's frames, or one picture."""
    if item.kind == "image":
        return [Frame(_encode(_shrink(read_picture(item.path)), "JPEG"), None)]
    clip = read_frames(
        item.path,
        num_frames=NUM_FRAMES,
        policy="segment_start",
        start_s=item.start_s,
        end_s=item.end_s,
    )
    return [
        Frame(_encode(_shrink(frame), "JPEG"), time_s)
        for frame, time_s in zip(clip.frames, clip.times_s, strict=True)
    ]


def _draw_sound(item: Shown) -> str:
    """Read a sound and draw it, its beginning if it is long."""
    waveform = read_audio(
        item.path, sample_rate_hz=SAMPLE_RATE_HZ, start_s=item.start_s, end_s=item.end_s
    )
    waveform = waveform[: int(LONGEST_SOUND_S * SAMPLE_RATE_HZ)]
    duration_s = len(waveform) / SAMPLE_RATE_HZ
    spec = AudioSpec(
        num_clips=1,
        clip_s=duration_s,
        sample_rate_hz=SAMPLE_RATE_HZ,
        num_mel_bins=NUM_MEL_BINS,
        # Full windows of 25 ms, 10 ms apart: nothing is padded, so nothing is drawn that is not.
        num_mel_frames=max(1, int((duration_s - 0.025) * 100) + 1),
        mean=0.0,
        std=1.0,
    )
    with torch.no_grad():
        mel = log_mel(waveform, spec)[0, 0].numpy()
    return _encode(Image.fromarray(colour_mel(mel)), "PNG")


def _shrink(picture: NDArray[np.uint8]) -> Image.Image:
    """Bring a picture near `FRAME_SIDE`; small ones are enlarged without smoothing."""
    image = Image.fromarray(picture)
    longest = max(image.size)
    if longest < FRAME_SIDE:
        factor = max(1, FRAME_SIDE // longest)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((FRAME_SIDE, FRAME_SIDE))
    return image


def _encode(image: Image.Image, file_format: str) -> str:
    """Return a picture as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, quality=85)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{file_format.lower()};base64,{content}"
