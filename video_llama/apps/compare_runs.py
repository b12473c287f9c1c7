"""What is compared: the runs and evaluations of cells, and how seeds are put beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from video_llama.common.errors import ConfigError
from video_llama.runners.folder import CONFIG_FILE
from video_llama.runners.metrics import METRICS_FILE
from video_llama.tasks.predictions import PREDICTIONS_FILE

SEED_PREFIX = "seed_"
"""Of folders that hold what was trained with one seed."""


@dataclass(frozen=True)
class CellRuns:
    """What one cell left behind with one seed.

    Attributes:
        name: of the cell.
        seed: it was trained with.
        train: run folders, in the order they were trained in.
        evaluations: folders of its evaluations.
        has_own_data: it was to be trained on other data than the baseline.
    """

    name: str
    seed: int
    train: tuple[Path, ...] = ()
    evaluations: tuple[Path, ...] = ()
    has_own_data: bool = False


def names_in_order(cells: Sequence[CellRuns], *, baseline: str) -> list[str]:
    """Return the cells' names, each once, the baseline first.

    Args:
        cells: every cell with every seed.
        baseline: name of the cell the others are compared with.
    """
    return list(dict.fromkeys((baseline, *(runs.name for runs in cells))))


def read_cell(folder: Path, *, name: str, evaluation: str | None = None) -> list[CellRuns]:
    """Find out what a folder holds.

    Args:
        folder: a run, an evaluation, or a folder of them; also one with a folder `seed_N` for
            every seed, as an experiment's cells are.
        name: the cell is to have.
        evaluation: take only evaluations of this name; they may also lie beside the run.

    Returns:
        One entry per seed.

    Raises:
        ConfigError: there is neither, or no evaluation of that name.
    """
    if not folder.is_dir():
        raise ConfigError(f"RUN: there is no folder {folder}")
    seeds = sorted(folder.glob(f"{SEED_PREFIX}*"))
    places = [path for path in seeds if path.name.removeprefix(SEED_PREFIX).isdigit()]
    found = [_read_one(path, name=name, evaluation=evaluation) for path in places or [folder]]
    if evaluation is not None and not all(runs.evaluations for runs in found):
        raise ConfigError(
            f"--evaluation: no evaluation '{evaluation}' (a folder with {PREDICTIONS_FILE} in it "
            f"or one below) in or beside {folder}"
        )
    if not any(runs.train or runs.evaluations for runs in found):
        raise ConfigError(
            f"RUN: {folder} holds neither a run ({METRICS_FILE} and {CONFIG_FILE}) nor an "
            f"evaluation ({PREDICTIONS_FILE})"
        )
    return found


def _read_one(folder: Path, *, name: str, evaluation: str | None) -> CellRuns:
    """Read the folder of one seed."""
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    if is_run(folder):
        train = [folder]
        evaluations = [path for path in below if is_evaluation(path)]
    elif is_evaluation(folder):
        train, evaluations = [], [folder]
    else:
        train = sorted(
            (path for path in below if is_run(path)),
            key=lambda path: (path / METRICS_FILE).stat().st_mtime,
        )
        evaluations = [path for path in below if is_evaluation(path)]
    if evaluation is not None:
        beside = [folder.parent / evaluation] if is_run(folder) else []
        evaluations = [p for p in (*evaluations, *beside) if p.name == evaluation]
        evaluations = [path for path in evaluations if is_evaluation(path)]
    return CellRuns(name, _seed_of(folder, train), tuple(train), tuple(evaluations))


def is_run(folder: Path) -> bool:
    """Say whether a folder is that of a training run."""
    return (folder / METRICS_FILE).is_file() and (folder / CONFIG_FILE).is_file()


def is_evaluation(folder: Path) -> bool:
    """Say whether a folder holds predictions, of one question set or of several."""
    return (folder / PREDICTIONS_FILE).is_file() or any(folder.glob(f"*/{PREDICTIONS_FILE}"))


def _seed_of(folder: Path, train: Sequence[Path]) -> int:
    text = folder.name.removeprefix(SEED_PREFIX)
    if folder.name.startswith(SEED_PREFIX) and text.isdigit():
        return int(text)
    if not train:
        return 0
    tree = yaml.safe_load((train[-1] / CONFIG_FILE).read_text(encoding="utf-8"))
    return int(tree.get("run", {}).get("seed", 0))


def seed_pairs(
    seeds: Sequence[int], others: Sequence[int]
) -> tuple[list[tuple[int, int]], list[str]]:
    """Put the seeds of a cell beside those of the baseline.

    Args:
        seeds: of the cell.
        others: of the baseline.

    Returns:
        Pairs (seed of the cell, seed of the baseline), and what has to be said about them. Seeds
        that both have go together; if there are none, the first with the first and so on, which
        is as good a comparison, but of runs on other data.
    """
    common = sorted(set(seeds) & set(others))
    if common:
        alone = sorted(set(seeds) ^ set(others))
        told = [f"only seeds {_listed(common)} are paired; {_listed(alone)} is without a partner"]
        return [(seed, seed) for seed in common], told if alone else []
    pairs = list(zip(sorted(seeds), sorted(others), strict=False))
    told = [f"no seed in common with the baseline: {one} beside {other}" for one, other in pairs]
    return pairs, told


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
