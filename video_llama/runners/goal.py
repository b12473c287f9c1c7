"""Which of a run's checkpoints is the best: `run.valid` and the task together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from video_llama.common.errors import ConfigError, UnknownName
from video_llama.common.registry import registry, unknown_name
from video_llama.common.schema import Config
from video_llama.runners.checkpoint import RunState
from video_llama.tasks.base import Direction, Task


@dataclass(frozen=True)
class Goal:
    """What is aimed at.

    Attributes:
        metric: name of a number that the task measures.
        direction: which values of it are better.
        every: cadence of validations.
        terms: what the metric is measured on; values under other terms do not compare.
    """

    metric: str
    direction: Direction
    every: int | str
    terms: Mapping[str, object]

    @classmethod
    def of(cls, config: Config, *, task: Task) -> Goal:
        """Return the goal of a run.

        Raises:
            ConfigError: `run.valid` names a data set or a metric that is not there.
        """
        valid = config.run.valid
        known = [name for name, entry in config.datasets.items() if entry.split == "valid"]
        problems = [
            f"run.valid.datasets: {unknown_name(name, known, what='data set with split: valid')}"
            for name in valid.datasets or ()
            if name not in known
        ]
        if problems:
            raise ConfigError(problems)
        metrics = task.metrics(known if valid.datasets is None else list(valid.datasets))
        if valid.metric not in metrics:
            unknown = unknown_name(valid.metric, metrics, what="metric")
            raise UnknownName(f"run.valid.metric: {unknown}")
        every = config.run.valid_freq if valid.every is None else valid.every
        return cls(valid.metric, metrics[valid.metric], every, _terms(config.resolved))

    def is_better(self, value: float, *, than: float | None) -> bool:
        """Compare two values of the metric.

        Args:
            value: measured now; what is not finite is never better.
            than: the best so far, None for none.
        """
        if not math.isfinite(value) or than is None:
            return math.isfinite(value)
        return value < than if self.direction == "lower" else value > than

    def carried_over(self, state: RunState, *, config: Config) -> RunState:
        """Return where a run stands, under the run file of now.

        A best value that was measured on other terms is forgotten.

        Args:
            state: of the checkpoint a run goes on from.
            config: the run file now.
        """
        has_same_terms = _terms(state.config) == self.terms
        return dataclasses.replace(
            state,
            best_metric=state.best_metric if has_same_terms else None,
            best_step=state.best_step if has_same_terms else None,
            config=dict(config.resolved),
        )


def check_goal(config: Config) -> None:
    """Find mistakes in `run.valid` before anything is built.

    Raises:
        ConfigError: see `Goal.of`.
    """
    Goal.of(config, task=registry.get_task_class(config.run.task)())


def _terms(resolved: Mapping[str, object]) -> dict[str, object]:
    """Return what a resolved run file says of the metric."""
    run = resolved.get("run")
    valid = run.get("valid") if isinstance(run, Mapping) else None
    own = dict(valid) if isinstance(valid, Mapping) else {}
    datasets = own.get("datasets")
    return {
        "metric": own.get("metric", "valid_loss"),
        "datasets": sorted(datasets) if isinstance(datasets, list | tuple) else None,
    }
