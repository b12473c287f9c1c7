"""Learning curves of cells over each other: thin lines for seeds, a thick one for their mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from video_llama.apps.compare_training import Training
from video_llama.apps.report_charts import Series
from video_llama.apps.report_runs import smooth

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """The curves of one cell.

    Attributes:
        cell: its name.
        seeds: points (step, loss) of every seed.
    """

    cell: str
    seeds: tuple[Points, ...]

    @property
    def mean(self) -> Points:
        """The mean over seeds at the steps that all have."""
        by_step: dict[float, list[float]] = defaultdict(list)
        for points in self.seeds:
            for step, loss in points:
                by_step[step].append(loss)
        return [
            (step, fmean(losses))
            for step, losses in sorted(by_step.items())
            if len(losses) == len(self.seeds)
        ]


@dataclass(frozen=True)
class Panel:
    """Curves of one number in one place of the chains.

    Attributes:
        title: names of the runs.
        note: what is drawn.
        curves: of every cell that has any.
        is_validation: points are few, and marked.
    """

    title: str
    note: str
    curves: tuple[Curve, ...]
    is_validation: bool


def read_panels(trainings: Sequence[Training], *, names: Sequence[str]) -> list[Panel]:
    """Put the curves of all cells together, place by place in their chains.

    Args:
        trainings: of all cells and seeds.
        names: of the cells, in order.
    """
    panels = []
    for place in sorted({one.place for one in trainings}):
        here = [one for one in trainings if one.place == place]
        title = " / ".join(dict.fromkeys(one.recipe for one in here))
        for is_validation in (False, True):
            curves = tuple(
                curve
                for name in names
                if (curve := _curve(name, here, is_validation=is_validation)).seeds
            )
            note = "validation loss" if is_validation else "training loss, running mean"
            if curves:
                panels.append(Panel(title, note, curves, is_validation))
    return panels


def _curve(name: str, trainings: Sequence[Training], *, is_validation: bool) -> Curve:
    own = [one for one in trainings if one.cell == name]
    found = [one.valid if is_validation else smooth(one.train) for one in own]
    return Curve(name, tuple(points for points in found if points))


def to_series(panel: Panel, *, styles: dict[str, str]) -> list[Series]:
    """Return a panel as the lines of a chart.

    Args:
        panel: the curves.
        styles: CSS classes by cell.
    """
    series = []
    for curve in panel.curves:
        style = styles[curve.cell]
        if len(curve.seeds) > 1:
            series += [Series(curve.cell, points, f"{style} seed") for points in curve.seeds]
        dots = panel.is_validation
        series.append(Series(curve.cell, curve.mean or curve.seeds[0], style, dots=dots))
    return series
