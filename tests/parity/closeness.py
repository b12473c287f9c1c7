"""The one measure of these tests: max|a - b| / max|b| over a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVATIONS = 1e-5
"""Largest error of activations, decoder inputs, losses and logits in float32 on a CPU."""

GRADIENTS = 1e-4
"""Largest error of gradients, and of parameters after a few optimizer steps."""

LARGEST: dict[str, float] = {}
"""By kind of number, the largest error seen in this process; pytest prints it with -v."""


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected value."""
    assert found.shape == expected.shape, f"{tuple(found.shape)}, not {tuple(expected.shape)}"
    scale = expected.abs().max().item()
    difference = (found.detach().double() - expected.double()).abs().max().item()
    return difference / scale if scale else difference


def assert_close(
    found: Tensor | float, expected: Tensor | float, *, kind: str, limit: float = ACTIVATIONS
) -> None:
    """Compare two tensors or numbers and note the error under `kind`."""
    error = relative_error(torch.as_tensor(found), torch.as_tensor(expected))
    LARGEST[kind] = max(error, LARGEST.get(kind, 0.0))
    assert error <= limit, f"{kind}: relative error {error:.2e}, at most {limit:.0e} is allowed"
