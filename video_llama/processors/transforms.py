"""From chosen frames to what an encoder is fed: size, augmentation, normalisation.

Follows Video-LLaMA's `processors/video_processor.py` (AlproVideoTrain, AlproVideoEval) and
`blip_processors.py` (Blip2 image train and eval), which LAVIS and torchvision define: pictures
are squashed to a square, never cropped for evaluation; training crops one box per clip. Nothing
draws from a global generator.

Shapes: T frames, H height, W width, S side of the encoder's square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from video_llama.common.types import VideoSpec
from video_llama.processors.pictures import fit

Overshoot = Literal["clamp", "wrap"]
Filter = Literal["bicubic", "bicubic_smooth"]

CROP_SCALE = (0.5, 1.0)
"""Share of the area a training crop keeps (Video-LLaMA's min_scale, max_scale)."""

CROP_RATIO = (3 / 4, 4 / 3)
"""Width to height of a training crop (torchvision's default)."""

CROP_ATTEMPTS = 10
"""Boxes tried before the whole picture is taken (torchvision)."""


@dataclass(frozen=True)
class Box:
    """A part of a picture in pixels: upper left corner and size."""

    top: int
    left: int
    height: int
    width: int


def resize(frames: NDArray[np.uint8], *, image_size: int) -> NDArray[np.uint8]:
    """Squash frames to a square with Pillow's bicubic filter, as published for pictures.

    Args:
        frames: uint8[T, H, W, 3].
        image_size: S in pixels.

    Returns:
        uint8[T, S, S, 3].
    """
    return np.stack([fit(frame, (image_size, image_size)) for frame in frames])


def crop_box(height: int, *, width: int, seed: int) -> Box:
    """Draw the box of a training crop; equal to torchvision's after `torch.manual_seed(seed)`.

    Args:
        height: of the picture in pixels.
        width: of the picture in pixels.
        seed: the box is a function of it.

    Returns:
        A box inside the picture; the largest centred one of an allowed ratio if none was hit.
    """
    generator = torch.Generator().manual_seed(seed)
    log_ratio = torch.log(torch.tensor(CROP_RATIO))
    for _ in range(CROP_ATTEMPTS):
        share = torch.empty(1).uniform_(*CROP_SCALE, generator=generator).item()
        drawn = torch.empty(1).uniform_(
            float(log_ratio[0]), float(log_ratio[1]), generator=generator
        )
        ratio = torch.exp(drawn).item()
        crop_width = round(math.sqrt(height * width * share * ratio))
        crop_height = round(math.sqrt(height * width * share / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = torch.randint(0, height - crop_height + 1, (1,), generator=generator).item()
            left = torch.randint(0, width - crop_width + 1, (1,), generator=generator).item()
            return Box(int(top), int(left), crop_height, crop_width)
    crop_width = min(width, max(1, round(height * CROP_RATIO[1])))
    crop_height = min(height, max(1, round(width / CROP_RATIO[0])))
    return Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def random_resized_crop(
    frames: NDArray[np.uint8],
    *,
    image_size: int,
    seed: int,
    method: Filter = "bicubic",
    overshoot: Overshoot = "clamp",
) -> NDArray[np.uint8]:
    """Crop all frames of a clip to the same random box and resize it to a square.

    Args:
        frames: uint8[T, H, W, 3].
        image_size: S in pixels.
        seed: the box is a function of it.
        method: "bicubic" is torch's, without smoothing, published for video; "bicubic_smooth" is
            Pillow's, published for pictures.
        overshoot: bicubic leaves 0..255 at sharp edges. "clamp" rounds and clamps; "wrap" cuts to
            uint8 as the published video transform does, so that -3 becomes 253.

    Returns:
        uint8[T, S, S, 3].
    """
    box = crop_box(frames.shape[1], width=frames.shape[2], seed=seed)
    crops = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    if method == "bicubic_smooth":
        return resize(np.ascontiguousarray(crops), image_size=image_size)
    crops_TCHW = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float()
    resized = functional.interpolate(
        crops_TCHW, size=(image_size, image_size), mode="bicubic", align_corners=False
    )
    if overshoot == "wrap":
        # By way of int64: float to uint8 outside 0..255 is undefined on some machines.
        resized = resized.to(torch.int64) % 256
    else:
        resized = resized.round().clamp(0, 255)
    return np.ascontiguousarray(resized.to(torch.uint8).permute(0, 2, 3, 1).numpy())


def normalise(frames: NDArray[np.uint8], spec: VideoSpec) -> Tensor:
    """Turn frames into what the encoder is fed.

    Args:
        frames: uint8[T, H, W, 3].
        spec: mean and standard deviation per channel.

    Returns:
        float32[T, 3, H, W], (value / 255 - mean) / std.
    """
    pixels_TCHW = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous().float()
    return standardise(pixels_TCHW.div_(255.0), spec)


def standardise(pixels: Tensor, spec: VideoSpec) -> Tensor:
    """Normalise float[T, 3, H, W] on the 0..1 scale, in place."""
    mean = torch.tensor(spec.mean).view(3, 1, 1)
    std = torch.tensor(spec.std).view(3, 1, 1)
    return pixels.sub_(mean).div_(std)
