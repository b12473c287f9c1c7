"""The page of a comparison: one file without anything to download, in light and dark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from video_llama.apps.compare_answers import ALL, KindRow, SetComparison
from video_llama.apps.compare_curves import Panel, to_series
from video_llama.apps.compare_examples import find_examples
from video_llama.apps.compare_model import Comparison
from video_llama.apps.compare_runs import names_in_order
from video_llama.apps.compare_training import total
from video_llama.apps.compare_words import (
    HOW,
    caveats,
    counted,
    data_sentence,
    interval,
    label,
    number,
    percent,
    signed,
    told,
    verdict_sentences,
    with_interval,
)
from video_llama.apps.report import group_of, label_of
from video_llama.apps.report_charts import line_chart
from video_llama.apps.report_page import render_page
from video_llama.apps.report_runs import style_of

TEMPLATE = "compare.html.j2"
CHIPS = {
    "better": "good",
    "worse": "bad",
    "this run better": "once",
    "this run worse": "once",
}
"""Colours of verdicts, of one seed an outline; all others are grey."""


@dataclass(frozen=True)
class Drawing:
    """One chart with its heading."""

    title: str
    note: str
    chart: str


def to_page(comparison: Comparison, *, panels: Sequence[Panel]) -> str:
    """Write the page.

    Args:
        comparison: what came out.
        panels: its learning curves.
    """
    names = names_in_order(comparison.cells, baseline=comparison.baseline)
    styles = {name: style_of(index) for index, name in enumerate(names)}
    is_same, data = data_sentence(comparison)
    values = {
        "comparison": comparison,
        "names": names,
        "styles": styles,
        "is_same": is_same,
        "data": data,
        "sentences": verdict_sentences(comparison),
        "chips": CHIPS,
        "caveats": caveats(comparison),
        "sets": [
            {"set": compared, "all": compared.rows[0], "groups": _groups(compared)}
            for compared in comparison.sets
        ],
        "examples": [(a.name, found) for a in comparison.sets if (found := find_examples(a))],
        "totals": [t for name in names if (t := total(comparison.trainings, cell=name))],
        "drawings": [_draw(panel, styles) for panel in panels],
        "seeds": _seeds(comparison),
        "has_seeds": len({runs.seed for runs in comparison.cells}) > 1,
        "versions": _versions(comparison),
        "how": HOW,
        "label_of": label_of,
        "counted": counted,
        "percent": percent,
        "signed": signed,
        "interval": interval,
        "with_interval": with_interval,
        "told": told,
        "label": label,
        "number": number,
    }
    return render_page(TEMPLATE, values=values)


def _groups(compared: SetComparison) -> list[tuple[str, list[KindRow]]]:
    """Put the kinds below headings, as `report` does."""
    groups: dict[str, list[KindRow]] = defaultdict(list)
    for row in compared.rows:
        if row.kind != ALL:
            groups[group_of(row.kind)].append(row)
    return list(groups.items())


def _draw(panel: Panel, styles: dict[str, str]) -> Drawing:
    chart = line_chart(
        to_series(panel, styles=styles),
        x_label="optimizer steps",
        y_label=f"{panel.title}: {panel.note}",
        starts_at_zero=False,
    )
    return Drawing(panel.title, panel.note, chart)


def _seeds(comparison: Comparison) -> dict[str, str]:
    """Return the seeds of every cell."""
    seeds: dict[str, list[int]] = defaultdict(list)
    for runs in comparison.cells:
        seeds[runs.name].append(runs.seed)
    return {name: ", ".join(map(str, sorted(own))) for name, own in seeds.items()}


def _versions(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the versions that wrote the runs; several of one library are all named."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for training in comparison.trainings:
        for name, version in training.versions.items():
            found[name][version] = None
    return [(name, ", ".join(versions)) for name, versions in found.items()]
