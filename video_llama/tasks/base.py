"""What a task is, and what it may expect of a model.

A task says what is trained on a batch and how the result is measured. It is handed a model and
never builds one; loops, devices and files of a run belong to the runner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

from video_llama.common.generation import GenerationSettings
from video_llama.common.types import Batch, LossOutput

Direction = Literal["lower", "higher"]
"""Which values of a metric are better."""

StopRule = Callable[[int, Sequence[int]], bool]
"""Tells by row index and the ids generated so far whether a row is finished."""


class Model(Protocol):
    """What a task may ask of a model."""

    def __call__(self, batch: Batch) -> LossOutput:
        """Compute the loss of a batch with labels."""

    def generate(
        self, batch: Batch, *, settings: GenerationSettings, stop: StopRule | None = None
    ) -> list[list[int]]:
        """Continue every prompt of a left-padded batch; only the new ids are returned."""

    def score(self, prompts: Batch, *, continuations: Batch, rows: Sequence[int]) -> LossOutput:
        """Compute the loss of every continuation behind the prompt in its row, read once.

        Prompts are padded on the left, continuations on the right; the first token of a
        continuation is the last one of its prompt, which therefore ends before it.
        """


class Task(Protocol):
    """What the runner calls."""

    def train_step(self, model: Model, batch: Batch) -> LossOutput:
        """Compute what is to be minimised on one batch.

        Args:
            model: in training mode.
            batch: with labels.

        Returns:
            The summed loss, its graph and the count to divide it by; dividing, over ranks and
            accumulated batches, is the engine's part.
        """

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> dict[str, float]:
        """Measure the model between two epochs.

        Args:
            model: in evaluation mode.
            batches: this rank's share of the validation set, with labels.

        Returns:
            Metrics of the whole validation set, equal on all ranks; at least those of `metrics`.
        """

    def metrics(self, datasets: Sequence[str]) -> dict[str, Direction]:
        """Say what `evaluate` measures, and in which direction it gets better.

        Args:
            datasets: names of the validation sets.
        """
