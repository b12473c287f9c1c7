"""The pictures of a comparison as PNG files, for papers and slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.apps.compare_answers import CellScore, KindRow, SetComparison
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

BASELINE = "the baseline"
UNTOLD = "not told from it"
VERDICTS = {BASELINE: COLOURS[0], "better": COLOURS[5], "worse": COLOURS[4], UNTOLD: GREY}
"""Colours of cells in a picture that has no room for kinds."""

DPI = 150
BAR_INCHES = 0.17
MOST_BARS = 150
"""Of one picture; with more, it shows all questions alone, and kinds are left to the tables."""


def plot_accuracies(compared: SetComparison, *, path: Path) -> None:
    """Draw a bar with its interval for every kind and cell, for all questions if these are many.

    Args:
        compared: a question set.
        path: PNG file.
    """
    num_cells = len(compared.rows[0].scores)
    is_small = len(compared.rows) * num_cells <= MOST_BARS
    figure = _draw_kinds(compared.rows) if is_small else _draw_cells(compared.rows[0].scores)
    (axes,) = figure.axes
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{compared.name}: accuracy in percent, 95 % intervals")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    figure.savefig(path, dpi=DPI, bbox_inches="tight")


def _draw_kinds(rows: Sequence[KindRow]) -> Figure:
    """Draw a group of bars for every kind, a colour for every cell."""
    names = [score.cell for score in rows[0].scores]
    figure = _figure(width=7.5, height=BAR_INCHES * len(rows) * (len(names) + 0.8) + 1.2)
    axes = figure.add_subplot()
    thickness = 0.82 / len(names)
    for number, name in enumerate(names):
        for row_index, row in enumerate(rows):
            _bar(
                axes,
                row.scores[number],
                place=row_index + (number - (len(names) - 1) / 2) * thickness,
                thickness=0.9 * thickness,
                colour=COLOURS[number % len(COLOURS)],
                label=name if row_index == 0 else None,
            )
    axes.set_yticks(range(len(rows)), [full_label(row.kind) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _draw_cells(scores: Sequence[CellScore]) -> Figure:
    """Draw a bar for every cell, coloured by what was shown of it against the baseline."""
    figure = _figure(width=7.5, height=1.6 * BAR_INCHES * len(scores) + 1.2)
    axes = figure.add_subplot()
    words = [BASELINE, *(_standing(score) for score in scores[1:])]
    for place, (score, word) in enumerate(zip(scores, words, strict=True)):
        label = word if word not in words[:place] else None
        _bar(axes, score, place=place, thickness=0.75, colour=VERDICTS[word], label=label)
    base = scores[0].accuracy
    if base is not None:
        axes.axvline(100 * base.value, color=VERDICTS[BASELINE], linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(scores)), [score.cell for score in scores])
    axes.set_ylim(len(scores) - 0.4, -0.6)
    return figure


def _standing(score: CellScore) -> str:
    """Return what was shown of a cell against the baseline."""
    word = UNTOLD if score.verdict is None else score.verdict.word
    return word if word in VERDICTS else UNTOLD


def _bar(
    axes: Any,  # noqa: ANN401 - untyped upstream
    score: CellScore,
    *,
    place: float,
    thickness: float,
    colour: str,
    label: str | None,
) -> None:
    """Draw one accuracy with its interval; none where nothing was asked."""
    if score.accuracy is None:
        return
    low, value, high = (
        100 * end for end in (score.accuracy.low, score.accuracy.value, score.accuracy.high)
    )
    axes.barh(
        place,
        value,
        height=thickness,
        color=colour,
        alpha=0.75,
        xerr=[[value - low], [high - value]],
        error_kw={"elinewidth": 1, "ecolor": "#333333"},
        label=label,
    )


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
