"""By how much a loss is multiplied before a float16 backward pass, by torch's rule.

For engines whose optimizer torch's own scaler does not fit. The numbers are those of
`torch.amp.GradScaler`, so that a run goes on under either.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from video_llama.runners.optimizer_state import NUM_GOOD_STEPS, SCALE

FIRST = 2.0**16
FACTOR = 2.0
"""Of growth, and of the fall after an overflow."""

STEPS_TO_GROW = 2000
"""Good steps in a row before the scale is tried higher."""


class LossScale:
    """Halved when gradients overflow, doubled when they have not for long.

    Args:
        is_enabled: float16 is used somewhere; otherwise the scale stays 1.
    """

    def __init__(self, *, is_enabled: bool) -> None:
        self.is_enabled = is_enabled
        self.value = FIRST if is_enabled else 1.0
        self._num_good_steps = 0

    def update(self, *, overflowed: bool) -> None:
        """Take note of a step."""
        if not self.is_enabled:
            return
        self._num_good_steps = 0 if overflowed else self._num_good_steps + 1
        if overflowed:
            self.value /= FACTOR
        elif self._num_good_steps == STEPS_TO_GROW:
            self.value *= FACTOR
            self._num_good_steps = 0

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps, nothing if the scale stays 1."""
        if not self.is_enabled:
            return {}
        return {SCALE: torch.tensor(self.value), NUM_GOOD_STEPS: torch.tensor(self._num_good_steps)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        if self.is_enabled and SCALE in state:
            self.value = state[SCALE].item()
            self._num_good_steps = int(state[NUM_GOOD_STEPS].item())
