"""A learned table that tells the time steps apart, for bridges that have none of their own.

Shapes: M rows, T time steps, N tokens a step, D width; P rows of the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.registry import registry
from video_llama.common.types import Features, Shape
from video_llama.models.bridges.positions import spread_positions


@registry.register_bridge("frame_positions")
class FramePositions(nn.Module):
    """Adds to every token the row of its time step; any bridge may follow."""

    @dataclass(frozen=True)
    class Config:
        """Settings.

        Attributes:
            num_positions: rows of the table. More steps than rows share the table stretched over
                them, see `spread_positions`.
            init_std: of the table; 0 begins as if the stage were not there.
        """

        num_positions: int = 8
        init_std: float = 0.02

        def __post_init__(self) -> None:
            if self.num_positions < 1:
                raise ValueError(f"num_positions is {self.num_positions}; it must be at least 1.")
            if self.init_std < 0:
                raise ValueError(f"init_std is {self.init_std}; it must not be negative.")

        def out_shape(self, shape: Shape) -> Shape:
            """Return the shape of one row after this stage: unchanged.

            Raises:
                ConfigError: several steps, and a table of one row, which cannot be stretched.
            """
            if self.num_positions == 1 < shape.num_steps:
                raise ConfigError(
                    f"frame_positions: {shape.num_steps} time steps come in and the table has 1 "
                    "row, from which no others follow; raise num_positions or take one step"
                )
            return shape

    def __init__(self, config: Config, in_shape: Shape) -> None:
        super().__init__()
        config.out_shape(in_shape)
        if config.num_positions < in_shape.num_steps:
            get_logger().warning(
                "frame_positions: %d time steps share a table of %d rows, stretched along time; "
                "num_positions: %d gives each its own",
                *(in_shape.num_steps, config.num_positions, in_shape.num_steps),
            )
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_positions, in_shape.width))
        nn.init.normal_(self.weight, std=config.init_std)

    def forward(self, features: Features, text: Tensor | None = None) -> Features:
        """Add positions to tokens float[M, T, N, D]; `text` is not read."""
        self.config.out_shape(Shape(*features.tokens.shape[1:]))
        rows_MTD = spread_positions(self.weight, features.mask.any(dim=2))
        tokens = features.tokens + rows_MTD.unsqueeze(2)
        return replace(features, tokens=tokens.to(features.tokens.dtype))
