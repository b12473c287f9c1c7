"""Linear maps with an activation between them; with two and gelu LLaVA's `mlp2x_gelu`.

The layers are numbered as in the published file, activations included: `layers.0`, `layers.2`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from video_llama.common.registry import registry
from video_llama.common.types import Features, Shape
from video_llama.common.weights import Excuse, KeyMap

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}

PUBLISHED_NAMES = (
    *(
        (f"{above}mm_projector.{rest}", f"layers.{ours}")
        for above in ("model.", "base_model.model.model.", "")
        for rest, ours in (("*.*", "*.*"), ("*", "0.*"))
    ),
    *(
        (f"{above}linear_{number}.*", f"layers.{index}.*")
        for above in ("multi_modal_projector.", "model.multi_modal_projector.", "")
        for number, index in ((1, 0), (2, 2))
    ),
)
"""Pairs (published, ours): of the LLaVA family, which serve for export, then of transformers."""

OTHERS = {
    "the language model's": (
        *("model.embed_tokens.**", "model.layers.**", "model.norm.**", "lm_head.**"),
        *("language_model.**", "model.language_model.**"),
    ),
    "a tower's": ("*_tower.**", "model.*_tower.**"),
}
"""What else a directory of such a system holds."""


@registry.register_bridge("mlp")
class Mlp(nn.Module):
    """Maps every token by itself."""

    @dataclass(frozen=True)
    class Config:
        """Settings.

        Attributes:
            width: of the tokens that come out; before a decoder, the decoder's.
            depth: number of linear maps; 1 has no activation.
            hidden_width: between the maps, None for `width`.
            activation: after every map but the last; gelu is the exact one.
        """

        width: int
        depth: int = 2
        hidden_width: int | None = None
        activation: Literal["gelu", "relu", "silu"] = "gelu"

        def __post_init__(self) -> None:
            hidden = self.width if self.hidden_width is None else self.hidden_width
            if min(self.width, self.depth, hidden) < 1:
                raise ValueError("width, depth and hidden_width must be at least 1.")
            if self.hidden_width is not None and self.depth == 1:
                raise ValueError(
                    f"hidden_width is {self.hidden_width}, and a depth of 1 has nothing between "
                    "its maps; raise depth or take hidden_width out."
                )

        def out_shape(self, shape: Shape) -> Shape:
            """Return the shape of one row after this stage."""
            return replace(shape, width=self.width)

        def key_map(self) -> KeyMap:
            """Return the table from the names in a published file to ours."""
            drops = (
                Excuse(pattern, f"{whose}, not the projector's")
                for whose, patterns in OTHERS.items()
                for pattern in patterns
            )
            own = ("layers.*.*", "layers.*.*")
            return KeyMap(renames=(*PUBLISHED_NAMES, own), drops=tuple(drops))

    def __init__(self, config: Config, in_shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(*_layers(config, in_width=in_shape.width))

    def forward(self, features: Features, text: Tensor | None = None) -> Features:
        """Map tokens float[M, T, N, D] to float[M, T, N, width]; `text` is not read."""
        return replace(features, tokens=self.layers(features.tokens), levels=None)


def _layers(config: Mlp.Config, *, in_width: int) -> Iterator[nn.Module]:
    hidden = config.width if config.hidden_width is None else config.hidden_width
    widths = [in_width, *[hidden] * (config.depth - 1), config.width]
    for index, (before, after) in enumerate(pairwise(widths)):
        if index:
            yield ACTIVATIONS[config.activation]()
        yield nn.Linear(before, after)
