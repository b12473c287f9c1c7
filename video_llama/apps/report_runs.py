"""Training runs side by side: what they did, where their run files differ, their curves together.

Read from what a run folder keeps: `metrics.jsonl`, `config.yaml`, `skipped.jsonl`,
`bad_steps.jsonl`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from video_llama.apps.report_charts import Series, line_chart
from video_llama.runners.bad_steps import BAD_STEPS_FILE
from video_llama.runners.folder import CONFIG_FILE, SKIPPED_FILE
from video_llama.runners.metrics import METRICS_FILE, read_lines
from video_llama.runners.resume import comparable

NUM_COLOURS = 8
"""Runs that can be told apart by colour; the next ones are dashed."""

MAX_OVERLAID = 2 * NUM_COLOURS
"""Runs drawn over each other; of more nobody can follow one."""

NUM_SMOOTHED = 50
"""A smoothed curve is a running mean over one in so many of its points."""

OWN_KEYS = ("run.output_dir", "run.resume_ckpt_path")
"""Keys that differ in every two runs and say nothing."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        name: shown; unique on the page.
        train: lines of training.
        valid: lines of validation.
        config: dotted keys of the run file.
        skipped: samples that could not be used, by data set.
        num_bad: steps that were not made.
    """

    name: str
    train: Sequence[Mapping[str, Any]]
    valid: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    skipped: Mapping[str, int]
    num_bad: int

    @property
    def num_steps(self) -> int:
        """Optimizer steps written about."""
        return max((line["step"] for line in (*self.train, *self.valid)), default=0)

    def mean(self, key: str) -> float | None:
        """Return the mean of a number over the lines of training, None if it is never there."""
        found = [line[key] for line in self.train if line.get(key) is not None]
        return fmean(found) if found else None

    def peak(self, key: str) -> float | None:
        """Return the largest value of a number, None if it is never there."""
        return max((line[key] for line in self.train if line.get(key) is not None), default=None)


@dataclass(frozen=True)
class Curves:
    """One run's panel: its chart, and facts beside it."""

    name: str
    chart: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Panel:
    """Curves of one number."""

    title: str
    note: str
    chart: str


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        legend: (CSS classes, name) of every run that is drawn.
        num_hidden: runs that are not drawn.
        panels: overlaid curves.
        headers: of `rows` behind the name.
        rows: (name, numbers as text) of every run.
        best: index of the row with the lowest validation loss, None if there is none.
        differences: (dotted key, value in every run as text).
        skips: (data set, count in every run) where there were any.
    """

    legend: tuple[tuple[str, str], ...]
    num_hidden: int
    panels: tuple[Panel, ...]
    headers: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    best: int | None
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    skips: tuple[tuple[str, tuple[int, ...]], ...]


PANELS = (
    ("loss", "Training loss", "nats per supervised token, running mean"),
    ("valid_loss", "Validation loss", "nats per supervised token"),
    ("lr", "Learning rate", ""),
    ("grad_norm", "Gradient norm", "before clipping, running mean"),
    ("samples_per_s", "Samples per second", "running mean"),
    ("data_wait_share", "Waiting for data", "share of the time, running mean"),
    ("mfu", "MFU", "share of the peak of all GPUs, running mean"),
)
SMOOTHED = ("loss", "grad_norm", "samples_per_s", "data_wait_share", "mfu")


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders; two of the same name are told apart by the folders they lie in."""
    names = Counter(folder.name for folder in folders)
    return [_read_run(f, f.name if names[f.name] == 1 else _longer_name(f)) for f in folders]


def draw_run(run: Run) -> Curves:
    """Draw the learning curves of one run."""
    names = sorted({key for line in run.train for key in line if key.startswith("loss/")})
    series = [Series("training", [(line["step"], line["loss"]) for line in run.train], "train")]
    for number, key in enumerate(names[:4] if len(names) > 1 else [], start=1):
        points = [(line["step"], line[key]) for line in run.train if key in line]
        series.append(Series(key.removeprefix("loss/"), points, f"another-{number}"))
    points = [(line["step"], line["valid_loss"]) for line in run.valid]
    series.append(Series("validation", points, "valid", dots=True))
    facts = [("steps", f"{run.num_steps:,}")]
    if run.train:
        facts.append(("last training loss", f"{run.train[-1]['loss']:.3f}"))
    if run.valid:
        lowest, _ = lowest_validation(run)
        facts.append(("lowest validation loss", "-" if lowest is None else f"{lowest:.3f}"))
    chart = line_chart(series, x_label="optimizer steps", y_label=f"loss of {run.name}")
    shown = [s for s in series if s.points]
    return Curves(run.name, chart, (*facts, *(("curve " + s.style, s.name) for s in shown)))


def compare(runs: Sequence[Run]) -> Comparison:
    """Put runs side by side.

    Args:
        runs: at least two.
    """
    drawn = runs[:MAX_OVERLAID]
    columns = {name: [_text(run, name) for run in runs] for name in COLUMNS}
    shown = [name for name, texts in columns.items() if set(texts) - {"-", "0"}]
    rows = [(run.name, tuple(columns[h][i] for h in shown)) for i, run in enumerate(runs)]
    panels = [_panel(drawn, key=key, title=title, note=note) for key, title, note in PANELS]
    losses = [lowest_validation(run)[0] for run in runs]
    lowest = {i: loss for i, loss in enumerate(losses) if loss is not None}
    names = sorted({name for run in runs for name in run.skipped})
    return Comparison(
        legend=tuple((style_of(i), run.name) for i, run in enumerate(drawn)),
        num_hidden=len(runs) - len(drawn),
        panels=tuple(panel for panel in panels if panel.chart),
        headers=tuple(shown),
        rows=tuple(rows),
        best=min(lowest, key=lowest.__getitem__) if lowest else None,
        differences=tuple(differences(runs)),
        skips=tuple((name, tuple(run.skipped.get(name, 0) for run in runs)) for name in names),
    )


def style_of(number: int) -> str:
    """Return the CSS classes of the curve of a run."""
    return f"run-{number % NUM_COLOURS + 1}" + (" dashed" if number >= NUM_COLOURS else "")


def differences(runs: Sequence[Run]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the keys in which the run files differ, with the value of every run."""
    keys = sorted({key for run in runs for key in run.config} - set(OWN_KEYS))
    rows = [(key, tuple(_value(run.config, key) for run in runs)) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return running means over the last few points.

    Worked example, 100 points, so that two are averaged:
        (1, 2.0) (2, 4.0) (3, 8.0) ...   become   (1, 2.0) (2, 3.0) (3, 6.0) ...
    """
    width = max(1, len(points) // NUM_SMOOTHED)
    values = [y for _, y in points]
    return [
        (x, fmean(values[max(0, index + 1 - width) : index + 1]))
        for index, (x, _) in enumerate(points)
    ]


def _read_run(folder: Path, name: str) -> Run:
    lines = read_lines(folder / METRICS_FILE)
    train = [line for line in lines if line.get("kind", "train") == "train"]
    config = folder / CONFIG_FILE
    tree = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    skipped = Counter(line["dataset"] for line in read_lines(folder / SKIPPED_FILE))
    return Run(
        name=name,
        train=[line for line in train if line.get("loss") is not None],
        valid=[line for line in lines if line.get("valid_loss") is not None],
        config=comparable(tree),
        skipped=dict(sorted(skipped.items())),
        num_bad=len(read_lines(folder / BAD_STEPS_FILE)),
    )


def _longer_name(folder: Path) -> str:
    return f"{folder.resolve().parent.name}/{folder.name}"


def _panel(runs: Sequence[Run], *, key: str, title: str, note: str) -> Panel:
    series = []
    for number, run in enumerate(runs):
        lines = run.valid if key == "valid_loss" else run.train
        found = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        points = [point for point in found if math.isfinite(point[1])]
        drawn = smooth(points) if key in SMOOTHED else points
        series.append(
            Series(run.name, drawn, style_of(number), dots=key == "valid_loss" or len(drawn) == 1)
        )
    starts_at_zero = key not in ("loss", "valid_loss")
    chart = line_chart(
        series, x_label="optimizer steps", y_label=title, starts_at_zero=starts_at_zero
    )
    return Panel(title, note, chart)


COLUMNS = {
    "steps": ("{:,}", lambda run: run.num_steps),
    "last training loss": ("{:.4f}", lambda run: run.train[-1]["loss"] if run.train else None),
    "lowest validation loss": ("{:.4f}", lambda run: lowest_validation(run)[0]),
    "at step": ("{:,}", lambda run: lowest_validation(run)[1]),
    "samples/s": ("{:.1f}", lambda run: run.mean("samples_per_s")),
    "tokens/s": ("{:,.0f}", lambda run: run.mean("tokens_per_s")),
    "MFU": ("{:.1%}", lambda run: run.mean("mfu")),
    "waits for data": ("{:.0%}", lambda run: run.mean("data_wait_share")),
    "GPU GiB": ("{:.1f}", lambda run: run.peak("gpu_mem_gib")),
    "host GiB": ("{:.1f}", lambda run: run.peak("rss_gib")),
    "skipped samples": ("{:,}", lambda run: sum(run.skipped.values())),
    "bad steps": ("{:,}", lambda run: run.num_bad),
}
"""Heading, form and value of the table of runs; a column without any value is left out."""


def _text(run: Run, column: str) -> str:
    form, value_of = COLUMNS[column]
    value = value_of(run)
    return "-" if value is None else form.format(value)


def lowest_validation(run: Run) -> tuple[float | None, int | None]:
    """Return the lowest validation loss and its step, whatever the run's checkpoints go by."""
    finite = [line for line in run.valid if math.isfinite(line["valid_loss"])]
    lowest = min(finite, key=lambda line: line["valid_loss"], default=None)
    return (None, None) if lowest is None else (lowest["valid_loss"], lowest["step"])


def _value(config: Mapping[str, Any], key: str) -> str:
    if key not in config:
        return "not set"
    value = config[key]
    return value if isinstance(value, str) else json.dumps(value)
