"""`video-llama experiment`: the same training with parts or settings swapped, and what it shows.

    video-llama experiment experiments/bridge_toy.yaml --check
    video-llama experiment experiments/bridge_toy.yaml --parallel 2

Everything that can be wrong with any cell is looked at before the first one starts. A second call
reuses what is finished and goes on with what is not; a cell that fails does not stop the others.
Exit codes: 0 all that was asked for is there, 1 some of it is not, 2 something is wrong with the
experiment, 130 interrupted; the same call goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from video_llama.apps.console import wide_console
from video_llama.apps.devices import pick_device
from video_llama.apps.experiment_cells import open_cells
from video_llama.apps.experiment_file import Experiment, read_experiment
from video_llama.apps.experiment_open import (
    Opened,
    change_problems,
    changed_runs,
    open_experiment,
)
from video_llama.apps.experiment_report import report
from video_llama.apps.experiment_runs import from_words
from video_llama.apps.experiment_slots import alone_in, open_slots
from video_llama.apps.experiment_stamp import set_aside
from video_llama.apps.experiment_view import show_cells
from video_llama.apps.experiment_work import do_work, plan_work
from video_llama.apps.lanes import Slots
from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger, start_logging
from video_llama.common.registry import unknown_name
from video_llama.runners.write_errors import require_writable

OUT = Path("output/experiments")
RESOLVED_FILE = "experiment.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    parser.add_argument("file", type=Path, metavar="FILE", help="YAML, see docs/experiments.md")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"where everything goes (default: {OUT}/NAME)"
    )
    parser.add_argument("--only", nargs="+", metavar="CELL", help="run these cells, report all")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="in place of the file's")
    parser.add_argument(
        "--parallel", type=int, metavar="N", help="runs at the same time (default: GPUs, or cores)"
    )
    parser.add_argument(
        "--ranks", type=int, default=1, metavar="N", help="processes of a run; they share its batch"
    )
    parser.add_argument("--check", action="store_true", help="check and show all cells, run none")
    parser.add_argument(
        "--redo-changed",
        action="store_true",
        help="set runs aside whose settings are others now, and make them again",
    )
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of all run files"
    )


def main(args: argparse.Namespace) -> int:
    """Run an experiment, or show what it would do.

    Raises:
        VideoLlamaError: something is wrong with it.
    """
    start_logging()
    for flag, number in (("--parallel", args.parallel), ("--ranks", args.ranks)):
        if number is not None and number < 1:
            raise ConfigError(f"{flag}: found {number}, expected at least 1")
    experiment = read_experiment(args.file, seeds=args.seeds)
    only = _only(experiment, args.only)
    opened = open_experiment(
        experiment,
        cells=open_cells(experiment, options=from_words(args.options)),
        out=args.out or OUT / args.file.stem,
        num_ranks=args.ranks,
    )
    console = wide_console()
    show_cells(opened.chains, facts=opened.facts, standings=opened.standings(), console=console)
    for remark in opened.remarks:
        console.print(remark, markup=False, highlight=False)
    changed = [(run, found) for run, found in changed_runs(opened) if run.cell in only]
    if changed and not args.redo_changed:
        raise ConfigError(change_problems(changed), where=str(opened.out))
    if args.check:
        console.print(f"all cells are in order; {opened.out} was not touched (--check)")
        return 0
    require_writable(opened.out, key="--out")
    with alone_in(opened.out) as lock:
        for run, _ in changed:
            aside = set_aside(run, out=opened.out)
            get_logger().warning("%s: its former run is now %s", run.name, aside)
        environments = open_slots(
            kinds=_device_kinds(opened), num_parallel=args.parallel, num_ranks=args.ranks
        )
        slots = Slots(environments, num_ranks=args.ranks)
        return _run(opened, only=only, slots=slots, lock=lock, console=console)


def _run(opened: Opened, *, only: set[str], slots: Slots, lock: int, console: Console) -> int:
    """Do what is left of some cells and report on all."""
    text = yaml.safe_dump(_plain(opened.experiment), sort_keys=False, allow_unicode=True)
    (opened.out / RESOLVED_FILE).write_text(text, encoding="utf-8")
    wanted = [chain for chain in opened.chains if chain.cell.name in only]
    work = plan_work(wanted, facts=opened.facts, logs=opened.out / "logs")
    keeps_all = opened.experiment.keep == "all"
    failed = do_work(work, wanted, slots=slots, keeps_all=keeps_all, lock=lock)
    is_whole = report(opened, only=only, failed=failed, console=console)
    return 0 if is_whole else 1


def _only(experiment: Experiment, names: list[str] | None) -> set[str]:
    """Return the cells to run.

    Raises:
        ConfigError: there is no such cell.
    """
    unknown = [name for name in names or () if name not in experiment.cells]
    if unknown:
        raise ConfigError(
            [f"--only: {unknown_name(name, experiment.cells, what='cell')}" for name in unknown]
        )
    return set(experiment.cells if names is None else names)


def _device_kinds(opened: Opened) -> set[str]:
    """Return the kinds of devices that runs compute on."""
    return {pick_device(run.config.run) for chain in opened.chains for run in chain.runs}


def _plain(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment as it would be written without a grid, defaults left out."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(experiment)))
    return _without_empty({**content, "baseline": experiment.against})


def _without_empty(node: dict[str, Any]) -> dict[str, Any]:
    """Leave out what says nothing; a cell without changes stays."""
    kept = {key: value for key, value in node.items() if value not in (None, {}, [], "")}
    if "cells" in kept:
        kept["cells"] = {name: _without_empty(cell) for name, cell in kept["cells"].items()}
    return kept
