"""Whisper's encoder, AST or CLAP's audio trunk of transformers as an encoder of sound.

Sizes come from `architecture`, weights from the part's `weights`: a file or directory of the whole
published model, of which the audio trunk alone is used. Nothing is fetched. The media loader makes
what transformers' feature extractors would.

Shapes: M rows, T clips, K valid clips, F mel bins, L mel frames, R rows of a grid (of frequencies)
and C columns (of time), N tokens a clip, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.common.registry import registry
from video_llama.common.types import AudioSpec, Features, Shape
from video_llama.common.weights import KeyMap
from video_llama.models.encoders.base import encode_valid_steps, keep_statistics, low_precision
from video_llama.models.encoders.hf_audio_families import FAMILIES
from video_llama.models.encoders.hf_audio_family import Family, read_architecture


@registry.register_encoder("hf_audio")
class HfAudio(nn.Module):
    """Tokens of sound clips, in the order of time."""

    @dataclass(frozen=True)
    class Config:
        """Which trunk, and what it hears.

        Attributes:
            family: whisper hears speech above all, ast and clap sounds of any kind.
            architecture: keys of the published config.json, or the directory that holds it; keys
                that are left out have transformers' defaults.
            num_clips: clips cut from a track, T.
            clip_s: length of a clip in seconds, None for what the weights were trained on: 30 for
                whisper, 10 for clap, and about 10 for ast. A shorter one makes whisper
                faster; its positions are cut to it.
            clip_policy: where clips start, a name in `processors.audio.CLIP_POLICIES`.
            num_tokens: tokens a clip is brought to, by the mean over frequencies and over
                neighbours in time; None for all of them, e.g. whisper's 50 a second.
            dtype: of linear and convolution weights; norms stay float32. Keep float32 if the
                encoder is trained, or small updates are rounded away.
        """

        family: Literal["whisper", "ast", "clap"]
        architecture: dict[str, Any] | str = field(default_factory=dict)
        num_clips: int = 1
        clip_s: float | None = None
        clip_policy: str = "consecutive"
        num_tokens: int | None = None
        dtype: Literal["float32", "bfloat16", "float16"] = "float32"

        def __post_init__(self) -> None:
            family = FAMILIES[self.family]
            found = read_architecture(self.architecture, family=family)
            # Kept in place of the directory, so that what is saved of a config says it all.
            object.__setattr__(self, "architecture", found)
            if self.num_clips < 1:
                raise ValueError(f"num_clips must be at least 1, found {self.num_clips}.")
            if self.clip_s is not None and self.clip_s <= 0:
                raise ValueError(f"clip_s must be above 0, found {self.clip_s}.")
            columns = self.traits().grid[1]
            if self.num_tokens is not None and not 1 <= self.num_tokens <= columns:
                raise ValueError(
                    f"num_tokens must be from 1 to {columns}, the steps in time of a clip, found "
                    f"{self.num_tokens}."
                )

        def traits(self) -> Family[Any]:
            """Return what is known of the trunk before it is built."""
            assert isinstance(self.architecture, dict)
            return FAMILIES[self.family](self.architecture, clip_s=self.clip_s)

        def media_spec(self) -> AudioSpec:
            """Return what the encoder must be fed."""
            return self.traits().spec(num_clips=self.num_clips, clip_policy=self.clip_policy)

        def out_shape(self, num_steps: int) -> Shape:
            """Return the shape of one row."""
            traits = self.traits()
            num_tokens = self.num_tokens or math.prod(traits.grid)
            return Shape(num_steps, num_tokens=num_tokens, width=traits.width)

        def key_map(self) -> KeyMap:
            """Return the table from the whole published model's names to ours."""
            return FAMILIES[self.family].key_map

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.family = config.traits()
        self.trunk = self.family.build()
        self._dtype = getattr(torch, config.dtype)
        for layer in self.trunk.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
                layer.to(self._dtype)

    def train(self, mode: bool = True) -> HfAudio:
        """Set the mode; batch norms keep the statistics of the file."""
        super().train(mode)
        keep_statistics(self)
        return self

    def forward(self, raw: Tensor, mask: Tensor) -> Features:
        """Encode sound clips.

        Args:
            raw: float[M, T, 1, F, L] log-mel pictures, normalised.
            mask: bool[M, T], true where a clip is real.

        Returns:
            Tokens float32[M, T, N, D], zeros and masked where no clip is.
        """
        tokens_MTND = encode_valid_steps(self._encode, raw, mask=mask)
        return Features(
            tokens=tokens_MTND,
            mask=mask[..., None].expand(tokens_MTND.shape[:3]),
            grid=self.family.grid if self.config.num_tokens is None else None,
        )

    def _encode(self, mels: Tensor) -> Tensor:
        with low_precision(self._dtype, device=mels.device):
            grid_KRCD = self.family.run(self.trunk, mels).float()
        if self.config.num_tokens is None:
            return grid_KRCD.flatten(1, 2)
        over_time_KDC = grid_KRCD.mean(dim=1).mT
        return functional.adaptive_avg_pool1d(over_time_KDC, self.config.num_tokens).mT

    def repeated_layers(self) -> list[nn.Module]:
        """Return the layers in their order."""
        return self.family.layers(self.trunk)

    def key_map(self) -> KeyMap:
        """Return the table from the whole published model's names to ours."""
        return self.config.key_map()
