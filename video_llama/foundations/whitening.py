"""Where a linear patch embedding of the toy world starts: the whitening basis of pixel patches.

From a random start the embedding takes ten times as long to tell shapes apart; positions that
start as sines and cosines are needed to tell places (docs/toy_world.md).

Shapes: K pictures, P patch pixels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

GAIN, EPS = 0.5, 0.02
POSITION_GAIN = 0.5


@dataclass(frozen=True)
class Whitening:
    """A linear map that makes patches white.

    Attributes:
        weight: float[D, 3, side, side].
        bias: float[D].
    """

    weight: Tensor
    bias: Tensor


def whitening_of(pixels: Tensor, *, patch_size: int, width: int) -> Whitening:
    """Compute the map from pictures: the principal axes of their patches, each scaled alike.

    Args:
        pixels: float[K, 3, H, W], normalised as the encoder is fed.
        patch_size: side of a patch in pixels.
        width: D, at most 3 * patch_size ** 2; the axes of the largest variance are kept.
    """
    patches = functional.unfold(pixels, patch_size, stride=patch_size).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(dim=0)
    variances, axes = torch.linalg.eigh(torch.cov((patches - mean).T))
    variances, axes = variances[-width:].flip(0), axes[:, -width:].flip(1)
    # The sign of an axis is arbitrary; fixing it keeps the start the same everywhere.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    basis = GAIN * (axes / (variances + EPS).sqrt()).T
    return Whitening(basis.reshape(width, 3, patch_size, patch_size), -basis @ mean)


def sine_positions(side: int, *, width: int) -> Tensor:
    """Return float[1, 1 + side * side, D]: sines and cosines of row and column, 0 for the class."""
    axis = sine_axis(side, width=width // 2)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    grid = POSITION_GAIN * torch.cat([rows, columns], dim=2).flatten(0, 1)
    return torch.cat([torch.zeros(1, width), grid])[None]


def sine_axis(num_places: int, *, width: int) -> Tensor:
    """Return float[num_places, width]: sines and cosines, half a turn over all places or faster."""
    rates = torch.pi * torch.logspace(-1, 0, width // 2, base=num_places)
    angles = torch.arange(num_places)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
