"""What the model saw and heard of a file, as a piece of a web page: frames and mel pictures.

Everything is drawn from the very tensors the encoders get, so that a wrong crop, a clip that was
sampled elsewhere or a silent track is there to be seen. Pictures stand inside the page, no file
is written.

Shapes: T steps, F mel bins, W mel frames.
"""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from video_llama.common.types import AudioSpec, MediaItem, MediaSpec, VideoSpec

if TYPE_CHECKING:
    from video_llama.conversation.chat import Upload

SPECTRUM = ((12, 12, 40), (74, 30, 110), (170, 50, 100), (240, 120, 60), (252, 240, 190))
"""From silent to loud."""

FEW = 4
"""Up to so many pictures stand in so many columns; more stand in twice as many."""

DRAWN_RANGE = (-1.27, 1.0)
"""Normalised values that are drawn darkest and brightest; the first is digital silence, the log of
the smallest float32 step less ImageBind's mean, by its standard deviation. Other ways of making
log-mel pictures have no such scale: theirs are drawn from their own darkest to their brightest."""

QUIETEST_RANGE = 1e-3
"""Normalised values between darkest and brightest at least, so that silence is all dark."""


def saw(upload: Upload, *, name: str) -> str:
    """Return HTML that shows what the model got of a file.

    Args:
        upload: what came of it.
        name: of the file, for its heading.
    """
    parts = [_strip(item, spec.spec) for item, spec in zip(upload.items, upload.specs, strict=True)]
    return f"<section class='saw'><h4>{html.escape(name)}</h4>{''.join(parts)}</section>"


def _strip(item: MediaItem, spec: MediaSpec) -> str:
    """Return one row of pictures: frames, or pieces of sound, with their seconds below."""
    if isinstance(spec, VideoSpec):
        pictures, style = frames_of(item, spec), "frames"
        if item.kind == "image":
            return _figures(pictures, ["as the model sees it"], style=style, told="1 picture")
        told = f"{len(pictures)} frames, by their second in the file"
    else:
        pictures, style = mels_of(item, spec), "mels"
        told = (
            f"{len(pictures)} pieces of {spec.clip_s:g} s of sound, by the second they start at; "
            "low notes below"
        )
    return _figures(pictures, [f"{t:.2f} s" for t in item.times_s], style=style, told=told)


def frames_of(item: MediaItem, spec: VideoSpec) -> list[Image.Image]:
    """Turn normalised frames back into the pictures they are of."""
    assert item.pixels is not None
    mean = item.pixels.new_tensor(spec.mean)[:, None, None]
    std = item.pixels.new_tensor(spec.std)[:, None, None]
    frames = ((item.pixels * std + mean) * 255).round().clamp(0, 255).byte()
    return [Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()) for frame in frames]


def mels_of(item: MediaItem, spec: AudioSpec) -> list[Image.Image]:
    """Draw every piece of sound: time to the right, low notes at the bottom, loud is bright."""
    assert item.mel is not None
    mels_TFW = item.mel[:, 0].float().cpu().numpy()
    low, high = DRAWN_RANGE
    if spec.recipe != "kaldi":
        low = float(mels_TFW.min())
        high = max(float(mels_TFW.max()), low + QUIETEST_RANGE)
    loudness_TFW = np.clip((mels_TFW - low) / (high - low), 0.0, 1.0)
    return [Image.fromarray(_coloured(mel_FW[::-1])) for mel_FW in loudness_TFW]


def _coloured(loudness: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Give every loudness in [0, 1] a colour, uint8[..., 3]."""
    stops = np.linspace(0.0, 1.0, len(SPECTRUM))
    channels = [np.interp(loudness, stops, channel) for channel in zip(*SPECTRUM, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _figures(pictures: list[Image.Image], captions: list[str], *, style: str, told: str) -> str:
    """Lay pictures out in a row."""
    figures = "".join(
        f"<figure><img src='{_data_url(picture)}' alt='{style} at {caption}'>"
        f"<figcaption>{caption}</figcaption></figure>"
        for picture, caption in zip(pictures, captions, strict=True)
    )
    columns = FEW if len(pictures) <= FEW else 2 * FEW
    return f"<p>{told}</p><div class='strip {style}' style='--columns: {columns}'>{figures}</div>"


def _data_url(picture: Image.Image) -> str:
    """Put a picture into its own address."""
    file = io.BytesIO()
    # Small pictures stay exact; large ones would make the page heavy.
    small = picture.width * picture.height <= 96 * 96
    picture.save(file, format="PNG" if small else "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
