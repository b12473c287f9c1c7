"""The pictures of a comparison as PNG files, for papers and slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.apps.compare_answers import SetComparison
from video_llama.apps.compare_curves import Panel
from video_llama.apps.compare_words import full_label
from video_llama.common.errors import VideoLlamaError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (
    "#2b5fc4", "#c8621b", "#17828a", "#7b4fb8", "#b3342e", "#17784a", "#7d7b1f", "#b83b86",
)  # fmt: skip
"""Of cells, as on the page."""

GREY = "#b8b8b8"
"""Of cells that are not told apart."""

DPI = 150
BAR_INCHES = 0.17
MOST_BARS = 150
"""Of one picture; with more, kinds are left to the page."""


def plot_accuracies(compared: SetComparison, *, path: Path) -> None:
    """Draw a bar with its interval for every kind and cell, for all questions if these are many.

    Args:
        compared: a question set.
        path: PNG file.
    """
    names = [score.cell for score in compared.rows[0].scores]
    rows = compared.rows if len(compared.rows) * len(names) <= MOST_BARS else compared.rows[:1]
    height = BAR_INCHES * len(rows) * (len(names) + 0.8) + 1.2
    figure = _figure(width=7.5, height=height)
    axes = figure.add_subplot()
    thickness = 0.82 / len(names)
    for number, name in enumerate(names):
        for row_index, row in enumerate(rows):
            accuracy = row.scores[number].accuracy
            if accuracy is None:
                continue
            place = row_index + (number - (len(names) - 1) / 2) * thickness
            reach = [[accuracy.value - accuracy.low], [accuracy.high - accuracy.value]]
            axes.barh(
                place,
                100 * accuracy.value,
                height=0.9 * thickness,
                color=COLOURS[number % len(COLOURS)],
                alpha=0.75,
                xerr=[[100 * end for end in ends] for ends in reach],
                error_kw={"elinewidth": 1, "ecolor": "#333333"},
                label=name if row_index == 0 else None,
            )
    axes.set_yticks(range(len(rows)), [full_label(row.kind) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{compared.name}: accuracy in percent, 95 % intervals")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    _finish(figure, axes, path)


def plot_curves(panels: Sequence[Panel], *, names: Sequence[str], path: Path) -> None:
    """Draw learning curves, a row for every place in the chains.

    Args:
        panels: from `compare_curves.read_panels`.
        names: of the cells, in the order of their colours.
        path: PNG file.
    """
    told = _colours(panels, names=names)
    num_columns = min(2, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure = _figure(width=5.2 * num_columns, height=3.3 * num_rows)
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(num_rows, num_columns, number)
        for curve in sorted(panel.curves, key=lambda one: one.cell in told):
            colour = told.get(curve.cell, GREY)
            marker = "o" if panel.is_validation else None
            if len(curve.seeds) > 1:
                for points in curve.seeds:
                    axes.plot(*_columns(points), color=colour, linewidth=0.7, alpha=0.45)
            mean = curve.mean or curve.seeds[0]
            label = curve.cell if curve.cell in told else None
            axes.plot(*_columns(mean), color=colour, marker=marker, markersize=3, label=label)
        axes.set_title(panel.title, fontsize=9)
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(panel.note)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if number == 1:
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.1), ncols=4)
    # Room for labels; a legend may be wider than any layout engine would give it.
    figure.subplots_adjust(hspace=0.55, wspace=0.3)
    figure.savefig(path, dpi=DPI, bbox_inches="tight")


def _colours(panels: Sequence[Panel], *, names: Sequence[str]) -> dict[str, str]:
    """Choose cells to be told apart: all if few, else the baseline and the last panel's extremes.

    Extremes are of the last point: the lowest and the highest loss.
    """
    chosen = list(names)
    if len(names) > len(COLOURS):
        last = {c.cell: (c.mean or c.seeds[0])[-1][1] for c in panels[-1].curves}
        others = sorted((name for name in last if name != names[0]), key=last.__getitem__)
        chosen = list(dict.fromkeys([names[0], *others[:1], *others[-1:]]))
    return dict(zip(chosen, COLOURS, strict=False))


def _figure(*, width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VideoLlamaError(
            "plots are drawn with matplotlib, which is not installed: "
            "pip install 'video-llama[eval]'"
        ) from error
    return Figure(figsize=(width, height))


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _finish(figure: Figure, axes: Any, path: Path) -> None:  # noqa: ANN401 - untyped upstream
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=DPI, bbox_inches="tight")
