"""CLIP's and SigLIP's picture trunks: openai's and laion's CLIP, LanguageBind_Image, SigLIP.

A clip is read frame by frame. The feature is the output of an inner layer, as LLaVA takes it.

Shapes: M rows, T frames, K valid frames, N tokens a frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from video_llama.common.registry import registry
from video_llama.common.types import Features
from video_llama.models.encoders.base import encode_valid_steps
from video_llama.models.encoders.vit import VitConfig
from video_llama.models.encoders.vit_layers import VitTrunk

MAX_FRAMES_AT_ONCE = 64
"""Longer clips pass a frozen trunk in pieces; what a layer needs does not grow with them."""


@registry.register_encoder("clip_vit")
class ClipVit(VitTrunk):
    """Patch tokens of single frames."""

    @dataclass(frozen=True)
    class Config(VitConfig):
        """Sizes of a CLIP ViT-L/14 unless told otherwise; see `vit.VitConfig`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def forward(self, raw: Tensor, mask: Tensor) -> Features:
        """Encode frames.

        Args:
            raw: float[M, T, 3, H, W], normalised.
            mask: bool[M, T], true where a frame is real.

        Returns:
            Tokens float32[M, T, N, D], zeros and masked where no frame is.
        """
        return self.features(encode_valid_steps(self._encode, raw, mask=mask), mask=mask)

    def _encode(self, frames: Tensor) -> Tensor:
        if any(parameter.requires_grad for parameter in self.parameters()):
            # All is kept for the backward pass anyway, and ranks that share weights must enter the
            # layers equally often.
            return self.run(frames)
        return torch.cat([self.run(piece) for piece in frames.split(MAX_FRAMES_AT_ONCE)])
