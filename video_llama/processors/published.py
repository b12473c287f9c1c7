"""Pictures and clips under the names of Video-LLaMA's registry, for callers who know LAVIS.

The run files of this package need none of them: there an encoder's `VideoSpec` decides what a
file becomes (`media`). These are the same steps as callables. A training processor draws its crop
and frames by its seed and the number of calls before, never from a global generator.

Shapes: T frames, H height, W width, S side of the square.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from video_llama.common.media_specs import Filter as Smoothing
from video_llama.common.media_specs import Resize
from video_llama.common.parsing import parsed
from video_llama.common.registry import registry
from video_llama.common.rng import fold
from video_llama.common.types import VideoSpec
from video_llama.processors.pictures import read_picture
from video_llama.processors.squares import decoded_size, square_pixels
from video_llama.processors.transforms import CROP_SCALE, Filter, normalise, random_resized_crop
from video_llama.processors.video import read_frames

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation (Radford et al. 2021), the default of every published processor."""

P = TypeVar("P", bound="PictureProcessor")


class PictureProcessor:
    """What the four processors share: their keys and the way from frames to pixels.

    Args:
        config: an instance of `Config`.
    """

    @dataclass(frozen=True)
    class Config:
        """Keys of the published processors.

        Attributes:
            image_size: S in pixels.
            n_frms: frames of a clip.
            mean: per channel, on the 0..1 scale.
            std: per channel, on the 0..1 scale.
            frame_policy: a name in `processors.video.FRAME_POLICIES`, None for the published one.
            resize: see `VideoSpec`; a training crop is squashed in any case.
            filter: see `VideoSpec`.
            min_scale: smallest share of the area that a training crop keeps; the published value.
            max_scale: largest share; the published value.
            seed: what a training processor draws by.
        """

        image_size: int = 224
        n_frms: int = 8
        mean: tuple[float, float, float] = CLIP_MEAN
        std: tuple[float, float, float] = CLIP_STD
        frame_policy: str | None = None
        resize: Resize = "squash"
        filter: Smoothing = "bicubic_smooth"
        min_scale: float = CROP_SCALE[0]
        max_scale: float = CROP_SCALE[1]
        seed: int = 42

        def __post_init__(self) -> None:
            if (self.min_scale, self.max_scale) != CROP_SCALE:
                raise ValueError(
                    f"min_scale and max_scale are {CROP_SCALE[0]} and {CROP_SCALE[1]} here, found "
                    f"{self.min_scale} and {self.max_scale}"
                )

    name: ClassVar[str]
    frame_policy: ClassVar[str] = "segment_start"
    crop: ClassVar[Literal["none"] | Filter] = "none"

    def __init__(self, config: Config) -> None:
        self.config = config
        self._calls = itertools.count()

    @classmethod
    def from_config(cls: type[P], node: Mapping[str, Any] | None = None) -> P:
        """Build the processor from a mapping; its key `name` is passed over.

        Raises:
            ConfigError: a key is unknown or has the wrong type.
        """
        return cls(parsed(cls.Config, node, where=cls.name))

    @property
    def spec(self) -> VideoSpec:
        """What an encoder behind this processor is fed."""
        return VideoSpec(
            num_frames=self.config.n_frms,
            image_size=self.config.image_size,
            mean=self.config.mean,
            std=self.config.std,
            frame_policy=self.config.frame_policy or self.frame_policy,
            resize=self.config.resize,
            filter=self.config.filter,
        )

    def transform(self, frames: NDArray[np.uint8], *, seed: int) -> Tensor:
        """Turn frames uint8[T, H, W, 3] into float32[T, 3, S, S]."""
        if self.crop == "none":
            return square_pixels(frames, self.spec)
        size = self.config.image_size
        square = random_resized_crop(frames, image_size=size, seed=seed, method=self.crop)
        return normalise(square, self.spec)

    def next_seed(self) -> int:
        """Return the seed of the next call."""
        return fold(self.config.seed, self.name, next(self._calls))


class ClipProcessor(PictureProcessor):
    """From a video file to the pixels of its frames."""

    def __call__(self, path: str | Path) -> Tensor:
        """Read a clip.

        Args:
            path: of the video.

        Returns:
            float32[3, T, S, S], channels first as published; a short clip gives fewer frames.

        Raises:
            MediaError: the file cannot be used.
        """
        seed = self.next_seed()
        clip = read_frames(
            path,
            num_frames=self.config.n_frms,
            policy=self.spec.frame_policy,
            size=decoded_size(self.spec),
            seed=seed,
        )
        return self.transform(clip.frames, seed=seed).transpose(0, 1).contiguous()


class StillProcessor(PictureProcessor):
    """From a picture to its pixels."""

    def __call__(self, picture: str | Path | Image.Image) -> Tensor:
        """Read a picture.

        Args:
            picture: a file, or an open Pillow image.

        Returns:
            float32[3, S, S].

        Raises:
            MediaError: the file cannot be used.
        """
        if isinstance(picture, Image.Image):
            pixels: NDArray[np.uint8] = np.asarray(picture.convert("RGB"))
        else:
            pixels = read_picture(picture)
        return self.transform(pixels[None], seed=self.next_seed())[0]


@registry.register_processor("alpro_video_train")
class AlproVideoTrain(ClipProcessor):
    """Frames drawn from both halves of a clip, one random crop for all."""

    name = "alpro_video_train"
    frame_policy = "headtail"
    crop = "bicubic"


@registry.register_processor("alpro_video_eval")
class AlproVideoEval(ClipProcessor):
    """Frames at even distances, squashed to the square."""

    name = "alpro_video_eval"


@registry.register_processor("blip2_image_train")
class Blip2ImageTrain(StillProcessor):
    """A random crop of a picture."""

    name = "blip2_image_train"
    crop = "bicubic_smooth"


@registry.register_processor("blip2_image_eval")
class Blip2ImageEval(StillProcessor):
    """A picture squashed to the square."""

    name = "blip2_image_eval"
