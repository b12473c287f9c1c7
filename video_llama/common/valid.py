"""The `run.valid` block: what a run is validated on, how often, and what makes a model the best."""

from __future__ import annotations

from dataclasses import dataclass

from video_llama.common.cadence import parse_cadence


@dataclass(frozen=True)
class Valid:
    """What happens between the steps of a run.

    Attributes:
        datasets: entries with `split: valid` that are read, None for all of them.
        every: epochs between validations, or steps as in `500 steps`; None for `run.valid_freq`.
        metric: number of the task that decides which checkpoint is the best.
    """

    datasets: tuple[str, ...] | None = None
    every: int | str | None = None
    metric: str = "valid_loss"

    def __post_init__(self) -> None:
        if self.every is None:
            return
        try:
            parse_cadence(self.every)
        except ValueError as error:
            raise ValueError(f"every must be {error}") from error
