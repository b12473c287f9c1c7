"""One HTML page of runs and evaluations: curves, comparisons, accuracies, clips with answers.

    video-llama report output/stage1 output/stage1_16frames --out report.html

The page is a single file without anything to download, readable in light and dark and on a phone.
It is made from what runs leave behind (`metrics.jsonl`, `metrics.json`, `predictions.jsonl`) and
the media files; no model is needed.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.apps.report_clips import Strip, draw_strip
from video_llama.apps.report_page import render_page
from video_llama.apps.report_runs import compare, draw_run, read_runs
from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger, start_logging
from video_llama.runners.metrics import METRICS_FILE
from video_llama.tasks.predictions import (
    NO_PROBE,
    PREDICTIONS_FILE,
    Prediction,
    Shown,
    read_predictions,
)
from video_llama.tasks.probes import PROBES
from video_llama.tasks.statistics import Estimate, difference

TEMPLATE = "report.html.j2"
MAX_QUESTIONS_SHOWN = 8

FIRST_GROUP = "Open questions"
TWO_OBJECTS = "Two objects"
GROUPS = {
    "pair_": (TWO_OBJECTS, "{}"),
    "who_": (TWO_OBJECTS, "who {}"),
    "mc_": ("Multiple choice", "{}"),
    "yn_": ("Yes or no, letters", "{}, yes or no"),
    "letter_": ("Yes or no, letters", "{}, letters"),
}
"""Heading and label of a kind by how its name begins; all others come first."""


@dataclass(frozen=True)
class Evaluation:
    """One question set answered by one model.

    Attributes:
        name: folder of the evaluation, for headings.
        folder: where it lies.
        metrics: its `metrics.json`.
        predictions: its `predictions.jsonl`.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]
    predictions: list[Prediction]


@dataclass(frozen=True)
class ClipCard:
    """A clip with the questions asked about it."""

    strip: Strip
    name: str
    answers: tuple[Prediction, ...]
    num_more: int


@dataclass(frozen=True)
class Section:
    """What the page says about one evaluation."""

    name: str
    metrics: dict[str, Any]
    groups: tuple[tuple[str, tuple[dict[str, Any], ...]], ...]
    probes: tuple[str, ...]
    reference: str | None
    galleries: tuple[tuple[str, tuple[ClipCard, ...]], ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `video-llama report`."""
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="folders of runs and evaluations, searched with everything below them",
    )
    parser.add_argument(
        "--runs", nargs="+", default=[], type=Path, metavar="RUN", help="more of them"
    )
    parser.add_argument(
        "--out",
        default=Path("report.html"),
        type=Path,
        metavar="FILE",
        help="HTML file (default: report.html)",
    )
    parser.add_argument("--title", default="Video-LLaMA: results", help="heading of the page")
    parser.add_argument("--clips", type=int, default=3, help="clips shown per group of questions")


def main(args: argparse.Namespace) -> int:
    """Write the report."""
    start_logging()
    folders = [*args.folders, *args.runs]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise ConfigError([f"RUN: there is no folder {folder}" for folder in missing])
    if not folders:
        raise ConfigError("RUN: name at least one folder of a run, e.g. output/toy")
    write_report(folders, out=args.out, title=args.title, clips_per_group=args.clips)
    print(args.out)
    return 0


def write_report(
    folders: Sequence[Path],
    *,
    out: Path,
    title: str = "Video-LLaMA: results",
    clips_per_group: int = 3,
) -> None:
    """Write the page.

    Args:
        folders: searched, with everything below them, for runs and evaluations.
        out: HTML file; its folder is made if missing.
        title: heading of the page.
        clips_per_group: clips shown for each group of question kinds, and as mistakes.

    Raises:
        ConfigError: there is neither a run nor an evaluation.
    """
    runs = read_runs(_run_folders(folders))
    answered = [path.parent for path in _find(folders, PREDICTIONS_FILE)]
    # A set has its predictions before its metrics; one that was interrupted is left out.
    evaluations = [read_evaluation(f) for f in answered if (f / "metrics.json").is_file()]
    if not runs and not evaluations:
        raise ConfigError(
            f"RUN: no {METRICS_FILE} of a run and no {PREDICTIONS_FILE} of an evaluation in "
            + ", ".join(map(str, folders))
        )
    evaluations.sort(key=lambda e: (str(e.folder.parent), e.metrics.get("position", 0)))
    values = {
        "title": title,
        "runs": [draw_run(run) for run in runs],
        "comparison": compare(runs) if len(runs) > 1 else None,
        "is_comparison": all((folder / METRICS_FILE).is_file() for folder in folders),
        "sections": [
            describe(e, among=evaluations, clips_per_group=clips_per_group) for e in evaluations
        ],
    }
    page = render_page(TEMPLATE, values=values)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    get_logger().info(
        "report of %s and %s: %s (%.1f MiB)",
        _count(len(runs), "run"),
        _count(len(evaluations), "evaluation"),
        out,
        out.stat().st_size / 2**20,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `evaluate` left in a folder."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    predictions = read_predictions(folder / PREDICTIONS_FILE)
    return Evaluation(f"{folder.parent.name} / {folder.name}", folder, metrics, predictions)


def describe(
    evaluation: Evaluation, *, among: Sequence[Evaluation], clips_per_group: int
) -> Section:
    """Collect what the page says about one evaluation.

    Args:
        evaluation: the one.
        among: all of the page; the first one in the same folder is the reference that the others
            (a composition split, say) are compared with.
        clips_per_group: clips shown for each group of question kinds.
    """
    siblings = [other for other in among if other.folder.parent == evaluation.folder.parent]
    reference = siblings[0] if siblings[0] is not evaluation else None
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for kind, row in evaluation.metrics["kinds"].items():
        against = reference.metrics["kinds"].get(kind) if reference else None
        change = _change(row, against)
        heading = group_of(kind)
        groups[heading].append({"kind": kind, "label": label_of(kind), **row, "change": change})
    ordered = list(dict.fromkeys(map(group_of, by_group(evaluation.metrics["kinds"]))))
    used = {name for row in evaluation.metrics["kinds"].values() for name in row["probes"]}
    return Section(
        name=evaluation.name,
        metrics=evaluation.metrics,
        groups=tuple((name, tuple(groups[name])) for name in ordered),
        probes=tuple(name for name in PROBES if name in used),
        reference=reference.name if reference else None,
        galleries=tuple(_galleries(evaluation.predictions, clips_per_group=clips_per_group)),
    )


def group_of(kind: str) -> str:
    """Return the heading under which a kind of question stands."""
    return next((GROUPS[start][0] for start in GROUPS if kind.startswith(start)), FIRST_GROUP)


def by_group(kinds: Iterable[str]) -> list[str]:
    """Return kinds in the order of their headings, and below one in their own."""
    headings = list(dict.fromkeys((FIRST_GROUP, *(heading for heading, _ in GROUPS.values()))))
    return sorted(kinds, key=lambda kind: headings.index(group_of(kind)))


def label_of(kind: str) -> str:
    """Return how a kind is called below its heading; a pool of all below it is "all"."""
    start = next((start for start in GROUPS if kind.startswith(start)), None)
    label = kind if start is None else GROUPS[start][1].format(kind.removeprefix(start))
    return "all" if label == "*" else label.replace("_", " ")


def _change(row: dict[str, Any], against: dict[str, Any] | None) -> Estimate | None:
    """Estimate how much better a row is than the reference's."""
    if against is None:
        return None
    first, second = (Estimate(r["accuracy"], r["low"], r["high"]) for r in (row, against))
    return difference(first, second)


def _galleries(
    predictions: Iterable[Prediction], *, clips_per_group: int
) -> Iterable[tuple[str, tuple[ClipCard, ...]]]:
    """Choose clips: some of each group, evenly spaced in the set, and some with mistakes."""
    by_clip: dict[tuple[Shown, ...], list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        if prediction.probe == NO_PROBE and prediction.error is None:
            by_clip[prediction.media].append(prediction)
    by_group: dict[str, list[tuple[Shown, ...]]] = defaultdict(list)
    for clip, answers in by_clip.items():
        for group in dict.fromkeys(group_of(answer.kind) for answer in answers):
            by_group[group].append(clip)
    wrong = [clip for clip, answers in by_clip.items() if not all(a.correct for a in answers)]
    shown: set[tuple[Shown, ...]] = set()
    for heading, clips in (
        ("Clips, evenly spaced through the set", by_group[FIRST_GROUP]),
        (TWO_OBJECTS, by_group[TWO_OBJECTS]),
        ("Mistakes", wrong),
    ):
        unseen = [clip for clip in clips if clip not in shown]
        step = max(1, len(unseen) // clips_per_group) if clips_per_group else 1
        chosen = unseen[::step][:clips_per_group]
        shown.update(chosen)
        if chosen:
            yield heading, tuple(_card(clip, by_clip[clip]) for clip in chosen)


def _card(clip: tuple[Shown, ...], answers: Sequence[Prediction]) -> ClipCard:
    """Draw one clip; wrong answers come first."""
    ordered = sorted(answers, key=lambda answer: answer.correct)
    names = dict.fromkeys(Path(item.path).name for item in clip)
    return ClipCard(
        strip=draw_strip(clip),
        name=", ".join(names) or "no media",
        answers=tuple(ordered[:MAX_QUESTIONS_SHOWN]),
        num_more=max(0, len(ordered) - MAX_QUESTIONS_SHOWN),
    )


def _find(folders: Sequence[Path], name: str) -> list[Path]:
    """Return all files of a name, each once, in a fixed order."""
    return sorted({path for folder in folders for path in folder.rglob(name)})


def _run_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of runs: named ones as they were named, others as they were trained.

    A stage builds on the one before.
    """
    named = [folder for folder in folders if (folder / METRICS_FILE).is_file()]
    found = [path for path in _find(folders, METRICS_FILE) if path.parent not in named]
    found.sort(key=lambda path: path.stat().st_mtime)
    return [*dict.fromkeys(named), *(path.parent for path in found)]
