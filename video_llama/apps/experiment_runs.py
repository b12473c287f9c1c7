"""The runs of an experiment: every cell with every seed, each run file loaded with its overrides.

    OUT/cells/CELL/seed_42/RECIPE/       an ordinary run folder
    OUT/cells/CELL/seed_42/eval_FILE/    an ordinary evaluation folder

A run that starts from another gets its folder as `model.ckpt`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.apps.experiment_cells import Cell, Step
from video_llama.apps.experiment_file import Options
from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.common.schema import Config
from video_llama.common.yaml_files import parse_options
from video_llama.models.sources import CHECKPOINT_KEYS

SHARED = "shared"
"""Value of `feature_cache` that leaves a run file's own folder where it names one."""

FEATURES = "features"
"""Folder of the shared features below an experiment's."""


@dataclass(frozen=True)
class Run:
    """One run file of one cell with one seed.

    Attributes:
        cell: name of the cell.
        seed: of its recipes.
        step: of the cell.
        folder: where it is kept.
        config: typed, with all overrides.
        words: those overrides as the command line takes them.
        start: folders of the runs it starts from.
    """

    cell: str
    seed: int
    step: Step
    folder: Path
    config: Config
    words: tuple[str, ...]
    start: tuple[Path, ...]

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.cell}, seed {self.seed}, {self.step.folder}"

    @property
    def length(self) -> str:
        """How long it trains, as the run file says; an epoch may be a pass over the data."""
        run = self.config.run
        if run.iters_per_epoch == "auto":
            return f"{run.max_epoch} passes"
        return f"{run.max_epoch * (run.iters_per_epoch // run.accum_grad_iters)} steps"

    @property
    def global_batch(self) -> int:
        """Samples of an optimizer step, however many processes share them."""
        return self.config.run.batch_size_train * self.config.run.accum_grad_iters


@dataclass(frozen=True)
class Chain:
    """A cell with one seed.

    Attributes:
        cell: what is run.
        seed: of its recipes.
        runs: one for every step of the cell, in the same order.
    """

    cell: Cell
    seed: int
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"{self.cell.name}, seed {self.seed}"

    @property
    def recipes(self) -> tuple[Run, ...]:
        """The runs that train."""
        return tuple(run for run in self.runs if run.step.learns)

    @property
    def evaluations(self) -> tuple[Run, ...]:
        """The runs that ask."""
        return tuple(run for run in self.runs if not run.step.learns)


def open_chain(
    cell: Cell, *, seed: int, out: Path, feature_cache: str | None, problems: list[str]
) -> Chain | None:
    """Load all run files of a cell with one seed.

    Args:
        cell: the cell.
        seed: of its recipes.
        out: folder of the experiment.
        feature_cache: as the experiment's file says.
        problems: what is wrong is appended, each with the cell and the run file.

    Returns:
        The chain, None if anything was wrong.
    """
    runs: list[Run] = []
    folder = out / "cells" / cell.name / f"seed_{seed}"
    before = len(problems)
    for step in cell.steps:
        start = tuple(folder / cell.steps[place].folder for place in step.start)
        own: Options = {"run.output_dir": str(folder / step.folder)}
        for key, path in zip(CHECKPOINT_KEYS, start, strict=False):
            own[f"model.{key}"] = str(path)
        if step.learns:
            own |= {"run.seed": seed, "run.resume_ckpt_path": "auto"}
        words = (*as_words(step.options), *as_words(own))
        try:
            config = load(step.file, options=words)
            cache = _cache_option(config, feature_cache, shared=out / FEATURES)
            if cache:
                words = (*words, cache)
                config = load(step.file, options=words)
        except ConfigError as error:
            problems += [f"{where(cell, step)}{text}" for text in error.problems]
            continue
        runs.append(Run(cell.name, seed, step, folder / step.folder, config, words, start))
    return Chain(cell, seed, tuple(runs)) if len(problems) == before else None


def where(cell: Cell, step: Step) -> str:
    """Return the beginning of a message about a run file of a cell."""
    return f"cells.{cell.name}, {step.stem}: "


def as_words(options: Options) -> list[str]:
    """Write overrides as the words behind `--options`; JSON is YAML too."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options.items()]


def from_words(words: Sequence[str]) -> Options:
    """Read the words behind `--options`."""
    return dict(parse_options(words))


def _cache_option(config: Config, feature_cache: str | None, *, shared: Path) -> str | None:
    """Return the override that makes a run use the experiment's features, None if it has its own.

    Pictures that are cropped at random have no features to keep.
    """
    if feature_cache is None:
        return None
    if feature_cache != SHARED:
        return f"run.feature_cache={json.dumps(feature_cache)}"
    augments = any(entry.augment != "none" for entry in config.datasets.values())
    if config.run.feature_cache is not None or augments:
        return None
    return f"run.feature_cache={json.dumps(str(shared))}"
