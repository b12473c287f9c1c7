"""How often something is done in a run: every so many epochs, or every so many steps.

In a run file an int counts epochs, and the text `500 steps` counts optimizer steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_TEXT = re.compile(r"\s*(\d+)\s*(epoch|step)s?\s*")


@dataclass(frozen=True)
class Cadence:
    """Every `count` units.

    Attributes:
        count: >= 1.
        unit: of what.
    """

    count: int
    unit: Literal["epoch", "step"]

    def is_due(self, step: int, *, steps_per_epoch: int, num_steps: int) -> bool:
        """Tell whether it is to be done after this step; after the last step it always is.

        Args:
            step: optimizer steps done.
            steps_per_epoch: optimizer steps of an epoch.
            num_steps: optimizer steps of the run.
        """
        period = self.count * (steps_per_epoch if self.unit == "epoch" else 1)
        return step % period == 0 or step == num_steps


def parse_cadence(value: int | str) -> Cadence:
    """Read a cadence of a run file.

    Args:
        value: epochs as an int, or a text such as `500 steps`.

    Raises:
        ValueError: it says no cadence, or less than one unit; the text completes
            "<key> must be ...".
    """
    if isinstance(value, str):
        match = _TEXT.fullmatch(value)
        count, unit = (int(match[1]), match[2]) if match else (0, "")
    else:
        count, unit = value, "epoch"
    if count < 1:
        raise ValueError(
            f"at least 1 epoch, written as an int, or 1 step, e.g. '500 steps'; found {value!r}"
        )
    return Cadence(count, "step" if unit == "step" else "epoch")
