"""The comparison of two cells or more: the same data proved, differences judged, all written down.

    FOLDER/report.html    one self-contained page
    FOLDER/results.md     the tables, and the pictures
    FOLDER/results.json   every number
    FOLDER/plots/*.png    the pictures

Used by `video-llama compare` for two runs, and at the end of `video-llama experiment`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from video_llama.apps.compare_answers import compare_answers
from video_llama.apps.compare_curves import Panel, read_panels
from video_llama.apps.compare_data import compare_data
from video_llama.apps.compare_json import to_json
from video_llama.apps.compare_losses import compare_losses
from video_llama.apps.compare_model import Comparison
from video_llama.apps.compare_page import to_page
from video_llama.apps.compare_plots import plot_accuracies, plot_curves
from video_llama.apps.compare_runs import CellRuns, names_in_order
from video_llama.apps.compare_tables import TRAINING, console_tables, to_markdown
from video_llama.apps.compare_training import differing_settings, read_trainings
from video_llama.apps.console import wide_console
from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger

PLOTS = "plots"


def compare_cells(
    cells: Sequence[CellRuns],
    *,
    baseline: str,
    title: str,
    question: str,
    missing: Sequence[str] = (),
) -> Comparison:
    """Compare cells without writing anything.

    Args:
        cells: every cell with every seed; seeds may be missing.
        baseline: name of the cell the others are compared with.
        title: heading.
        question: that the comparison is to answer.
        missing: cells and seeds that are not there, and why.

    Raises:
        ConfigError: there is no such cell, or nothing to compare it with.
    """
    names = list(dict.fromkeys(runs.name for runs in cells))
    if baseline not in names:
        raise ConfigError(f"baseline: there is no finished cell '{baseline}' among {names}")
    if len(names) < 2:
        raise ConfigError(f"cells: there is only '{baseline}'; a comparison takes two")
    return Comparison(
        title=title,
        question=question,
        baseline=baseline,
        cells=tuple(cells),
        sets=tuple(compare_answers(cells, baseline=baseline)),
        proofs=tuple(compare_data(cells, baseline=baseline)),
        losses=tuple(compare_losses(cells, baseline=baseline)),
        trainings=tuple(read_trainings(cells)),
        settings=tuple(differing_settings(cells, baseline=baseline)),
        command=shlex.join(["video-llama", *sys.argv[1:]]),
        missing=tuple(missing),
    )


def save_comparison(comparison: Comparison, *, folder: Path) -> None:
    """Print the tables of a comparison and write page, tables, numbers and plots.

    Args:
        comparison: what came out.
        folder: made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console = wide_console()
    for part in console_tables(comparison):
        console.print(part)
    (folder / "results.json").write_text(to_json(comparison), encoding="utf-8")
    names = names_in_order(comparison.cells, baseline=comparison.baseline)
    panels = read_panels(comparison.trainings, names=names)
    pictures: dict[str, str] = {}
    try:
        pictures = _plot(comparison, panels, names=names, folder=folder)
    finally:  # without matplotlib there are no pictures, but tables
        text = to_markdown(comparison, pictures=pictures)
        (folder / "results.md").write_text(text, encoding="utf-8")
    # Last: who sees the page finds everything it speaks of.
    (folder / "report.html").write_text(to_page(comparison, panels=panels), encoding="utf-8")
    get_logger().info("written: %s", folder / "report.html")


def _plot(
    comparison: Comparison, panels: Sequence[Panel], *, names: Sequence[str], folder: Path
) -> dict[str, str]:
    """Draw the pictures; return their paths below the folder by the section they stand in."""
    (folder / PLOTS).mkdir(exist_ok=True)
    pictures = {}
    for compared in comparison.sets:
        pictures[compared.name] = f"{PLOTS}/accuracy_{compared.name.replace('/', '_')}.png"
        plot_accuracies(compared, path=folder / pictures[compared.name])
    if panels:
        pictures[TRAINING] = f"{PLOTS}/curves.png"
        plot_curves(panels, names=names, path=folder / pictures[TRAINING])
    return pictures
