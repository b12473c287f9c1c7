"""A layer norm as a stage of its own; after EVA ViT-g it is BLIP-2's `ln_vision`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.common.registry import registry
from video_llama.common.types import Features, Shape


@registry.register_bridge("layer_norm")
class LayerNorm(nn.Module):
    """Normalises every token over its width, in float32."""

    @dataclass(frozen=True)
    class Config:
        """Settings.

        Attributes:
            eps: added to the variance.
        """

        eps: float = 1e-5

        def __post_init__(self) -> None:
            if self.eps <= 0:
                raise ValueError(f"eps is {self.eps}; it must be positive.")

        def out_shape(self, shape: Shape) -> Shape:
            """Return the shape of one row after this stage: unchanged."""
            return shape

    def __init__(self, config: Config, in_shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(in_shape.width))
        self.bias = nn.Parameter(torch.empty(in_shape.width))
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, features: Features, text: Tensor | None = None) -> Features:
        """Normalise tokens float[M, T, N, D]; `text` is not read."""
        tokens = functional.layer_norm(
            features.tokens.float(),
            self.weight.shape,
            weight=self.weight.float(),
            bias=self.bias.float(),
            eps=self.config.eps,
        )
        return replace(features, tokens=tokens.to(features.tokens.dtype))
