"""The runs of an experiment: every cell with every seed, each run file loaded with its overrides.

    OUT/cells/CELL/seed_42/RECIPE/       an ordinary run folder
    OUT/cells/CELL/seed_42/eval_FILE/    an ordinary evaluation folder

A run that starts from another gets its folder as `model.ckpt`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from video_llama.apps.experiment_cells import CHECKPOINT_KEYS, Cell, Step
from video_llama.apps.experiment_file import Options
from video_llama.apps.experiment_problems import Problem
from video_llama.common.config import find_run_file, load
from video_llama.common.errors import ConfigError
from video_llama.common.schema import Config
from video_llama.common.yaml_files import parse_options, read_yaml

SHARED = "shared"
"""Value of `feature_cache` that leaves a run file's own folder where it names one."""

CACHE_KEY = "run.feature_cache"
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


@dataclass
class Loader:
    """Loads the run files of cells.

    Attributes:
        out: folder of the experiment.
        feature_cache: as the experiment's file says.
        problems: what was wrong so far.
    """

    out: Path
    feature_cache: str | None
    problems: list[Problem] = field(default_factory=list)
    _caches: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def chain(self, cell: Cell, *, seed: int) -> Chain | None:
        """Load all run files of a cell with one seed; None if anything is wrong with one."""
        runs: list[Run] = []
        folder = self.out / "cells" / cell.name / f"seed_{seed}"
        for step in cell.steps:
            start = tuple(folder / cell.steps[place].folder for place in step.start)
            own: Options = {"run.output_dir": str(folder / step.folder)}
            for key, path in zip(CHECKPOINT_KEYS, start, strict=False):
                own[key] = str(path)
            if step.learns:
                own |= {"run.seed": seed, "run.resume_ckpt_path": "auto"}
            words = (*as_words(step.options), *as_words(own))
            try:
                _refuse_bringing_back(step)
                words = (*words, *self._cache_words(cell, step, words))
                config = load(step.file, options=words)
            except ConfigError as error:
                where = "recipes" if step.learns else "evaluate"
                texts = [re.sub(r"^--cfg-path(?=: )", where, text) for text in error.problems]
                self.problems += [Problem(cell.name, step.stem, text) for text in texts]
                continue
            runs.append(Run(cell.name, seed, step, folder / step.folder, config, words, start))
        return Chain(cell, seed, tuple(runs)) if len(runs) == len(cell.steps) else None

    def _cache_words(self, cell: Cell, step: Step, words: Sequence[str]) -> tuple[str, ...]:
        """Return the override that makes a run use the experiment's features, if one is needed.

        Pictures that are cropped at random have no features to keep.
        """
        if self.feature_cache is None:
            return ()
        if self.feature_cache != SHARED:
            return tuple(as_words({CACHE_KEY: self.feature_cache}))
        key = (cell.name, step.folder)
        if key not in self._caches:
            config = load(step.file, options=words)
            augments = any(entry.augment != "none" for entry in config.datasets.values())
            is_settled = config.run.feature_cache is not None or augments
            shared = as_words({CACHE_KEY: str(self.out / FEATURES)})
            self._caches[key] = () if is_settled else tuple(shared)
        return self._caches[key]


def _refuse_bringing_back(step: Step) -> None:
    """Refuse options meant for several run files that go below what this one switches off.

    Raises:
        ConfigError: with all of them.
    """
    tree = read_yaml(find_run_file(step.file))
    problems = []
    for key in sorted(step.options.keys() - step.meant):
        names = key.split(".")
        parents = [names[:end] for end in range(1, len(names))]
        off = [".".join(p) for p in parents if reduce(_below, p, tree) is None]
        if key.startswith("model.") and off and off[0] not in step.options:
            problems.append(
                f"{key}: the run file switches {off[0]} off, and this would bring it back; put it "
                "into own_options of the run files that it is meant for"
            )
    if problems:
        raise ConfigError(problems)


def _below(node: Any, name: str) -> Any:  # noqa: ANN401 - what YAML holds
    """Return what stands under a name, an empty mapping if nothing does."""
    return node.get(name, {}) if isinstance(node, Mapping) else {}


def as_words(options: Options) -> list[str]:
    """Write overrides as the words behind `--options`; JSON is YAML too."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options.items()]


def from_words(words: Sequence[str]) -> Options:
    """Read the words behind `--options`."""
    return dict(parse_options(words))
