"""What the cells' trainings took and came to: parameters, steps, seconds, losses, settings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.apps.compare_data import paired_runs
from video_llama.apps.compare_runs import CellRuns, names_in_order
from video_llama.apps.report_runs import Run, differences, lowest_validation, read_runs
from video_llama.common.logger import get_logger
from video_llama.runners.checkpoint import STATE_FILE, WEIGHTS_FILE
from video_llama.runners.retention import STEP_PATTERN

OWN_FOLDER = "(its folder)"
"""Stands in settings for the folder that a cell's runs lie in."""

ALL_RUNS = "all runs"
"""Stands in settings for the names of all runs of a chain."""


@dataclass(frozen=True)
class Training:
    """One run of one cell.

    Attributes:
        cell: name of the cell.
        seed: of the run.
        recipe: name of its folder.
        place: of the run in its chain, from 0.
        num_trainable: parameters that learn, None without a checkpoint.
        num_steps: optimizer steps.
        seconds: spent in steps, by the rates in its numbers; None if they are not there.
        num_processes: that trained side by side.
        device: "GPU" or "CPU".
        last_loss: of the last line of training.
        lowest_valid: lowest validation loss.
        versions: of libraries, and the commit.
        train: (step, loss) of training.
        valid: (step, loss) of validation.
    """

    cell: str
    seed: int
    recipe: str
    place: int
    num_trainable: int | None
    num_steps: int
    seconds: float | None
    num_processes: int
    device: str
    last_loss: float | None
    lowest_valid: float | None
    versions: Mapping[str, str]
    train: tuple[tuple[int, float], ...]
    valid: tuple[tuple[int, float], ...]

    @property
    def device_seconds(self) -> float | None:
        """Seconds of all its processes together."""
        return None if self.seconds is None else self.seconds * self.num_processes


@dataclass(frozen=True)
class CellTotals:
    """What a cell took with one seed, all its runs together.

    Attributes:
        cell: name of the cell.
        num_seeds: whose mean is taken.
        num_trainable: parameters that learn in the last run, None if nobody knows.
        num_steps: optimizer steps.
        seconds: spent in steps, None if they are not known of every run.
        device_seconds: of all processes together, likewise.
        device: "GPU" or "CPU".
    """

    cell: str
    num_seeds: int
    num_trainable: int | None
    num_steps: float
    seconds: float | None
    device_seconds: float | None
    device: str


@dataclass(frozen=True)
class Setting:
    """A key in which cells differ.

    Attributes:
        recipe: name of the run; of several in which cells differ alike, all names, or `ALL_RUNS`.
        key: dotted.
        values: as text, by cell.
    """

    recipe: str
    key: str
    values: Mapping[str, str]


def read_trainings(cells: Sequence[CellRuns]) -> list[Training]:
    """Read every run of every cell."""
    return [
        _training(runs, place=place, folder=folder)
        for runs in cells
        for place, folder in enumerate(runs.train)
    ]


def total(trainings: Sequence[Training], *, cell: str) -> CellTotals | None:
    """Add up the runs of a cell; None if it has none.

    Args:
        trainings: of all cells.
        cell: name of the one.
    """
    own = [one for one in trainings if one.cell == cell]
    if not own:
        return None
    num_seeds = len({one.seed for one in own})
    seconds = [one.seconds for one in own if one.seconds is not None]
    devices = [one.device_seconds for one in own if one.device_seconds is not None]
    is_whole = len(seconds) == len(own)
    return CellTotals(
        cell=cell,
        num_seeds=num_seeds,
        num_trainable=max(own, key=lambda one: one.place).num_trainable,
        num_steps=sum(one.num_steps for one in own) / num_seeds,
        seconds=sum(seconds) / num_seeds if is_whole else None,
        device_seconds=sum(devices) / num_seeds if is_whole else None,
        device=own[-1].device,
    )


def _training(runs: CellRuns, *, place: int, folder: Path) -> Training:
    (run,) = read_runs([folder])
    checkpoint = _last_checkpoint(folder)
    state = {} if checkpoint is None else _read_state(checkpoint / STATE_FILE)
    batch_size = state.get("global_batch_size")
    lowest, _ = lowest_validation(run)
    return Training(
        cell=runs.name,
        seed=runs.seed,
        recipe=folder.name,
        place=place,
        num_trainable=None if checkpoint is None else _num_parameters(checkpoint / WEIGHTS_FILE),
        num_steps=run.num_steps,
        seconds=None if batch_size is None else seconds_of(run, batch_size=batch_size),
        num_processes=state.get("num_ranks", 1),
        device="CPU" if run.peak("gpu_mem_gib") is None else "GPU",
        last_loss=run.train[-1]["loss"] if run.train else None,
        lowest_valid=lowest,
        versions=_versions(state.get("written_by", {})),
        train=tuple((line["step"], line["loss"]) for line in run.train),
        valid=tuple(
            (line["step"], line["valid_loss"])
            for line in run.valid
            if math.isfinite(line["valid_loss"])
        ),
    )


def seconds_of(run: Run, *, batch_size: int) -> float | None:
    """Return the seconds a run spent in steps; validations and starts are not among them.

    Args:
        run: with its lines of training.
        batch_size: samples of a step.

    Worked example: lines at steps 10 and 30 of 8 samples each, with 4 and 8 samples per second:
    10 * 8 / 4 + 20 * 8 / 8 = 40 s.
    """
    total, before = 0.0, 0
    for line in run.train:
        rate = line.get("samples_per_s")
        if not rate:
            return None
        total += (line["step"] - before) * batch_size / rate
        before = line["step"]
    return total if run.train else None


def _num_parameters(path: Path) -> int | None:
    """Count the parameters of a file from its header alone."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint, also one that was stripped of its optimizer."""
    found = [p for p in (folder / "checkpoints").glob("step_*") if STEP_PATTERN.match(p.name)]
    return max(found, key=lambda path: path.name, default=None)


def _read_state(path: Path) -> dict[str, Any]:
    """Read what a checkpoint says of its run; nothing if it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        get_logger().warning("%s: %s; what the training took is not known", path, error)
        return {}
    return dict(values)


def _versions(written_by: Mapping[str, Any]) -> dict[str, str]:
    """Return versions by name, with the commit of the package."""
    versions = dict(written_by.get("versions", {}))
    git = written_by.get("git", {}).get("video_llama")
    if git:
        versions["commit"] = git["commit"][:12] + (" with changes" if git["is_dirty"] else "")
    return versions


def differing_settings(cells: Sequence[CellRuns], *, baseline: str) -> list[Setting]:
    """Return the keys in which the cells' run files differ, of the first seed of each.

    Args:
        cells: every cell with every seed.
        baseline: name of the cell the others are compared with.
    """
    first = {runs.name: runs for runs in reversed(cells)}
    names = names_in_order(cells, baseline=baseline)
    base = first.get(baseline)
    if base is None:
        return []
    by_recipe: dict[str, dict[str, Path]] = {f.name: {baseline: f} for f in base.train}
    for name in names[1:]:
        for recipe, own, theirs in paired_runs(first[name].train, base.train):
            if own is not None:
                by_recipe.setdefault(recipe if theirs is None else theirs.name, {})[name] = own
    alike: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    for recipe, folders in by_recipe.items():
        runs = [_portable(read_runs([folder])[0], folder) for folder in folders.values()]
        for key, values in differences(runs):
            alike.setdefault((key, tuple(zip(folders, values, strict=True))), []).append(recipe)
    return [
        Setting(_together(recipes, num_runs=len(by_recipe)), key, dict(values))
        for (key, values), recipes in alike.items()
    ]


def _together(recipes: Sequence[str], *, num_runs: int) -> str:
    return ALL_RUNS if 1 < len(recipes) == num_runs else ", ".join(recipes)


def _portable(run: Run, folder: Path) -> Run:
    """Take out of a run's settings where its cell lies."""
    here = str(folder.parent)
    config: dict[str, Any] = {
        key: value.replace(here, OWN_FOLDER) if isinstance(value, str) else value
        for key, value in run.config.items()
    }
    return Run(run.name, run.train, run.valid, config, run.skipped, run.num_bad)
