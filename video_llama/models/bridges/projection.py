"""A linear map to another width; the last stage of Video-LLaMA's branches (`llama_proj`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from video_llama.common.registry import registry
from video_llama.common.types import Features, Shape


@registry.register_bridge("projection")
class Projection(nn.Module):
    """Maps every token by itself."""

    @dataclass(frozen=True)
    class Config:
        """Settings.

        Attributes:
            width: of the tokens that come out; before a decoder, the decoder's.
        """

        width: int

        def __post_init__(self) -> None:
            if self.width < 1:
                raise ValueError(f"width is {self.width}; it must be at least 1.")

        def out_shape(self, shape: Shape) -> Shape:
            """Return the shape of one row after this stage."""
            return replace(shape, width=self.width)

    def __init__(self, config: Config, in_shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(in_shape.width, config.width)

    def forward(self, features: Features, text: Tensor | None = None) -> Features:
        """Map tokens float[M, T, N, D] to float[M, T, N, width]; `text` is not read."""
        return replace(features, tokens=self.linear(features.tokens), levels=None)
