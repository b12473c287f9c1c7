"""What every bridge stage answers.

A stage maps `Features` to `Features`: any encoder or stage before it, any stage or decoder after
it. It must accept M = 0 rows, and its output must depend on its parameters even then, because a
branch without media still takes part in every step of a distributed run.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from video_llama.common.types import Features, Shape


class BridgeConfig(Protocol):
    """The static side of a stage: answers before any weight exists."""

    def out_shape(self, shape: Shape) -> Shape:
        """Return the shape of one row after this stage.

        Raises:
            ConfigError: the stage cannot take rows of this shape.
        """


class Bridge(Protocol):
    """One stage between an encoder and the decoder; built as `Stage(config, in_shape)`."""

    def forward(self, features: Features, text: Tensor | None = None) -> Features:
        """Map features; `text` is for stages that read the instruction."""
