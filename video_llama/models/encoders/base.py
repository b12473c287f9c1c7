"""What every encoder answers, and what several need.

An encoder maps pixels or mels to `Features`. It runs on valid steps only, may be given no rows at
all, and knows nothing of what comes after it.

Shapes: M rows, T time steps, K valid steps of all rows, N tokens a step, D width.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.common.types import Features, MediaSpec, Shape
from video_llama.common.weights import KeyMap


class EncoderConfig(Protocol):
    """The static side of an encoder: answers before any weight exists."""

    def media_spec(self) -> MediaSpec:
        """Return what the encoder must be fed."""

    def out_shape(self, num_steps: int) -> Shape:
        """Return the shape of one row of features."""

    def key_map(self) -> KeyMap:
        """Return the table from the published file's names to the module's."""


class Encoder(Protocol):
    """A network that sees or hears."""

    def forward(self, raw: Tensor, mask: Tensor) -> Features:
        """Encode float[M, T, ...] where bool[M, T] is true; the other steps are zeros."""

    def key_map(self) -> KeyMap:
        """Return the table from the published file's names to this module's."""


def encode_valid_steps(trunk: Callable[[Tensor], Tensor], raw: Tensor, *, mask: Tensor) -> Tensor:
    """Run a trunk on the steps that exist and put its tokens back into their places.

    Args:
        trunk: from float[K, ...] to float[K, N, D], K >= 1.
        raw: float[M, T, ...].
        mask: bool[M, T].

    Returns:
        float[M, T, N, D], zeros where the mask is false.
    """
    steps = raw[mask]
    # Trunks need not accept an empty batch; an empty slice keeps their parameters in the graph.
    is_empty = len(steps) == 0
    tokens_KND = trunk(raw.new_zeros(1, *raw.shape[2:]))[:0] if is_empty else trunk(steps)
    tokens_MTND = tokens_KND.new_zeros(*mask.shape, *tokens_KND.shape[1:])
    return tokens_MTND.index_put((mask,), tokens_KND)


def low_precision(
    dtype: torch.dtype, *, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """Return the context that casts activations where they meet weights of a lower precision."""
    if dtype is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def keep_statistics(module: nn.Module) -> None:
    """Put batch norms into eval mode.

    Their own statistics of a batch would make a row depend on its neighbours, and a batch without
    a row would move them to those of nothing.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()


def resize_positions(table: Tensor, shape: torch.Size, *, num_prefix: int = 1) -> Tensor:
    """Stretch a square table of patch positions to another square grid; class rows are kept.

    Bicubic with half-pixel centres, as BLIP-2 (`interpolate_pos_embed`) and ImageBind do.

    Args:
        table: float[1, P + old * old, D], P class rows.
        shape: wanted, [1, P + new * new, D].
        num_prefix: P.

    Returns:
        float[1, P + new * new, D]; the table itself where either grid is not square.
    """
    if table.ndim != 3 or len(shape) != 3 or table.shape[2] != shape[2]:
        return table
    old, new = math.isqrt(table.shape[1] - num_prefix), math.isqrt(shape[1] - num_prefix)
    if old * old != table.shape[1] - num_prefix or new * new != shape[1] - num_prefix:
        return table
    class_row, patches = table[:, :num_prefix].float(), table[:, num_prefix:].float()
    grid = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([class_row, resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
