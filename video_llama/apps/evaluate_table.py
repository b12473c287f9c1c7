"""The table of accuracies in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from video_llama.apps.console import wide_console
from video_llama.common.logger import get_logger
from video_llama.tasks.probes import PROBES
from video_llama.tasks.scoreboard import CHANCE, KindScore, Score, is_pool

CEILINGS = ("blind", "deaf", "order_blind")


def show_set(rows: Sequence[KindScore], *, metrics: Mapping[str, Any], folder: Path) -> None:
    """Print the table of a question set, and what could not be asked.

    Args:
        rows: from `scoreboard.score`.
        metrics: as written to `metrics.json`.
        folder: that holds it.
    """
    name, log = metrics["dataset"], get_logger()
    table = accuracy_table(rows, title=name, lenient=metrics["lenient"]["kinds"])
    wide_console().print(table)
    log.info("%s: everything is in %s", name, folder)
    if metrics["num_unusable"]:
        log.warning(
            "%s: %d questions could not be asked, so that these are the results of %s %% of the "
            "set; metrics.json names each with the reason",
            name,
            metrics["num_unusable"],
            percent(metrics["coverage"]),
        )


def accuracy_table(
    rows: Sequence[KindScore], *, title: str, lenient: Mapping[str, float] | None = None
) -> Table:
    """Lay out accuracies by kind: interval, chance, ceilings, bar, and every probe.

    Args:
        rows: from `scoreboard.score`.
        title: name of the question set.
        lenient: accuracy by kind if it is enough that the right answer stands somewhere in a free
            one; shown where that is another number.

    Returns:
        Percentages; green and red say whether a bar or ceiling is kept, within the interval.
    """
    names = {name for row in rows for name in row.ceilings}
    ceilings = [name for name in (CHANCE, *CEILINGS) if name in names]
    used = {name for row in rows for name in row.probes}
    probes = [name for name in PROBES if name in used]
    table = Table(title=f"{title}: accuracy in percent", title_justify="left")
    table.add_column("kind")
    table.add_column("n", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("95 %", justify="right")
    shown = {row.kind: (lenient or {}).get(row.kind, row.score.accuracy.value) for row in rows}
    differs = any(shown[row.kind] != row.score.accuracy.value for row in rows)
    if differs:
        table.add_column("lenient", justify="right")
    for name in ceilings:
        table.add_column(name.replace("_", "\n"), justify="right", style="dim")
    table.add_column("bar", justify="right")
    for name in probes:
        table.add_column(name.replace("_", "\n"), justify="right")
    for row in rows:
        accuracy = row.score.accuracy
        table.add_row(
            f"all {row.kind}" if is_pool(row.kind) else row.kind,
            str(row.score.num),
            _coloured(row.score),
            f"{percent(accuracy.low)}-{percent(accuracy.high)}",
            *([percent(shown[row.kind])] if differs else []),
            *(percent(row.ceilings[n]) if n in row.ceilings else "" for n in ceilings),
            "" if row.score.at_least is None else percent(row.score.at_least),
            *(_coloured(row.probes[n].score) if n in row.probes else "" for n in probes),
        )
    return table


def percent(value: float) -> str:
    """Write a share as a percentage with one digit."""
    return f"{100 * value:.1f}"


def _coloured(score: Score) -> Text:
    """Write an accuracy, green or red where there is something to keep."""
    style = "" if score.passes is None else "green" if score.passes else "red"
    return Text(percent(score.accuracy.value), style=style)
