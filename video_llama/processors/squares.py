"""How frames of any shape become the square pixels that an encoder is fed.

| who | `resize` | `filter` |
|---|---|---|
| Video-LLaMA | squash | bicubic_smooth |
| SigLIP, as transformers prepares it | squash | bicubic_smooth |
| CLIP and Video-LLaVA, as transformers prepares them | short_side_crop | bicubic_smooth |
| Video-LLaVA, pictures | short_side_crop or pad_square | bicubic |
| Video-LLaVA, clips | short_side_crop | bilinear |

The last two follow PKU-YuanGroup/Video-LLaVA (languagebind/image/processing_image.py,
languagebind/video/processing_video.py and `expand2square` in videollava/mm_utils.py). Its clips are
mirrored by chance, in evaluation too; nothing is mirrored here.

Shapes: T frames, H height, W width, S side of the square.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from video_llama.common.errors import MediaError
from video_llama.common.types import VideoSpec
from video_llama.processors.pictures import Picture, Size, fit
from video_llama.processors.transforms import Box, normalise, standardise

MAX_SIDE = 8192
"""Pixels; what is larger is made smaller first, so that its square of bars fits into memory."""

MAX_RATIO = 100
"""Of the sides; a strip would become millions of pixels, of which a square is left."""


def decoded_size(spec: VideoSpec) -> Size:
    """Return the size at which a clip is decoded; Video-LLaMA's decoder squashes its frames."""
    if (spec.resize, spec.filter) == ("squash", "bicubic_smooth"):
        return spec.image_size, spec.image_size
    return None


def square_pixels(frames: NDArray[np.uint8], spec: VideoSpec) -> Tensor:
    """Turn frames into what an encoder is fed.

    Args:
        frames: uint8[T, H, W, 3].
        spec: side, way and filter, mean and standard deviation.

    Returns:
        float32[T, 3, S, S], normalised.

    Raises:
        MediaError: one side is more than `MAX_RATIO` times the other, and nothing may be squashed.
    """
    shaped = (_shaped(frame, spec) for frame in frames)
    if spec.filter == "bicubic_smooth":
        return normalise(np.stack([_smooth(frame, spec) for frame in shaped]), spec)
    return standardise(torch.stack([_plain(frame, spec) for frame in shaped]), spec)


def _shaped(frame: Picture, spec: VideoSpec) -> Picture:
    """Do what comes before resizing."""
    if spec.resize == "squash":
        return frame
    frame = _bounded(frame)
    return _padded(frame, spec) if spec.resize == "pad_square" else frame


def _bounded(frame: Picture) -> Picture:
    """Refuse a strip, and shrink what is very large."""
    height, width = frame.shape[:2]
    if max(height, width) > MAX_RATIO * min(height, width):
        raise MediaError(
            f"{width} x {height} pixels, a strip; expected sides that differ by {MAX_RATIO} times "
            "at most; cut a piece out of it first"
        )
    return fit(frame, MAX_SIDE)


def _padded(frame: Picture, spec: VideoSpec) -> Picture:
    """Put bars of the mean colour on both sides of the longer axis."""
    height, width = frame.shape[:2]
    side = max(height, width)
    colour = [int(255 * channel) for channel in spec.mean]
    square: Picture = np.broadcast_to(np.array(colour, dtype=np.uint8), (side, side, 3)).copy()
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = frame
    return square


def _smooth(frame: Picture, spec: VideoSpec) -> Picture:
    """Resize with Pillow, then cut the middle out: uint8[S, S, 3]."""
    resized = fit(frame, _resized_shape(frame, spec))
    box = _middle(resized.shape[0], width=resized.shape[1], spec=spec)
    return resized[box.top : box.top + box.height, box.left : box.left + box.width]


def _plain(frame: Picture, spec: VideoSpec) -> Tensor:
    """Resize with torch, then cut the middle out: float32[3, S, S] on the 0..1 scale."""
    # As published for clips the mean is taken off before; a filter's weights sum to one.
    pixels_CHW = torch.from_numpy(np.array(frame)).permute(2, 0, 1).float() / 255
    resized_CHW = functional.interpolate(
        pixels_CHW[None], size=_resized_shape(frame, spec), mode=spec.filter, align_corners=False
    )[0]
    box = _middle(resized_CHW.shape[1], width=resized_CHW.shape[2], spec=spec)
    return resized_CHW[:, box.top : box.top + box.height, box.left : box.left + box.width]


def _resized_shape(frame: Picture, spec: VideoSpec) -> tuple[int, int]:
    """Return (height, width) before the middle is cut out."""
    height, width = frame.shape[:2]
    side = spec.image_size
    if spec.resize != "short_side_crop":
        return side, side
    if height < width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _middle(height: int, *, width: int, spec: VideoSpec) -> Box:
    """Return the square in the middle of a picture.

    Of an odd rest transformers gives the smaller half to the upper left, torchvision the even one.
    """
    side = spec.image_size
    halves = ((height - side) / 2, (width - side) / 2)
    rounded = int if spec.filter == "bicubic_smooth" else round
    top, left = (rounded(half) for half in halves)
    return Box(top, left, side, side)
