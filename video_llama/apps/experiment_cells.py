"""The cells of an experiment: for each, its chain of run files with all their overrides.

Layers, the later wins: the run file; options of the experiment (all, of recipes or evaluations, of
one file); the same of the cell; the command line. Nothing is loaded here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from video_llama.apps.experiment_file import CellEntry, Data, Experiment, Options, RunFile, over
from video_llama.common.errors import ConfigError
from video_llama.common.registry import unknown_name
from video_llama.runners.resume import flatten

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*")
"""What cells may be called; folders are named after them."""

CHECKPOINT_KEYS = ("model.ckpt", "model.ckpt_2")
"""What the runs that a run starts from are given as, in order."""

OWN_KEYS = ("run.seed", "run.output_dir", "run.resume_ckpt_path")
"""Keys that an experiment sets itself, for every run."""


@dataclass(frozen=True)
class Step:
    """A run file of a cell.

    Attributes:
        file: its path.
        stem: what it is called in options, and its folder.
        start: positions of the steps it starts from: the first gives `model.ckpt`, the second
            `model.ckpt_2`.
        learns: whether it is a recipe; else it is an evaluation.
        options: overrides of all layers.
        meant: keys of those that were said of this run file alone.
    """

    file: str
    stem: str
    start: tuple[int, ...]
    learns: bool
    options: Options
    meant: frozenset[str] = frozenset()

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return self.stem if self.learns else f"eval_{self.stem}"


@dataclass(frozen=True)
class Cell:
    """One system, wiring or setting of an experiment.

    Attributes:
        name: of the cell.
        steps: recipes first; each comes after those it starts from.
        data: whether it must see the data of the baseline.
    """

    name: str
    steps: tuple[Step, ...]
    data: Data

    @property
    def recipes(self) -> tuple[Step, ...]:
        """The steps that train."""
        return tuple(step for step in self.steps if step.learns)


def open_cells(experiment: Experiment, *, options: Options) -> tuple[Cell, ...]:
    """Return the cells of an experiment, the baseline first.

    Args:
        experiment: as `read_experiment` gives it.
        options: of the command line.

    Raises:
        ConfigError: chains or names are wrong; all mistakes are listed.
    """
    problems = [
        f"--options: {key} is what the experiment sets itself; use --seeds, or --out"
        for key in _own_keys(options)
    ]
    problems += _problems(experiment)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    names = sorted(experiment.cells, key=lambda name: name != experiment.against)
    cells = tuple(_open(experiment, name, options=options) for name in names)
    problems = [text for cell in cells for text in _start_problems(experiment, cell)]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return cells


def _open(experiment: Experiment, name: str, *, options: Options) -> Cell:
    """Put the layers of one cell together."""
    entry = experiment.cells[name]
    recipes, evaluate = _chains(experiment, name)
    places = {file.stem: place for place, file in enumerate(recipes)}
    steps: list[Step] = []
    for file in (*recipes, *evaluate):
        learns = len(steps) < len(recipes)
        before = [min(len(steps), len(recipes)) - 1] if recipes and steps else []
        start = before if file.start is None else [places[stem] for stem in file.start]
        merged: Options = {}
        meant: set[str] = set()
        layers: tuple[Experiment | CellEntry, ...] = (experiment, entry)
        for layer in layers:
            kind = layer.train_options if learns else layer.eval_options
            own = layer.own_options.get(file.stem, {})
            merged = over(over(over(merged, layer.options), kind), own)
            meant |= own.keys()
        merged = over(merged, options)
        steps.append(Step(file.file, file.stem, tuple(start), learns, merged, frozenset(meant)))
    return Cell(name, tuple(steps), entry.data or experiment.data)


def _chains(experiment: Experiment, name: str) -> tuple[tuple[RunFile, ...], tuple[RunFile, ...]]:
    """Return recipes and evaluations of a cell."""
    entry = experiment.cells[name]
    recipes = experiment.recipes if entry.recipes is None else entry.recipes
    evaluate = experiment.evaluate if entry.evaluate is None else entry.evaluate
    return _long_form(recipes), _long_form(evaluate)


def _long_form(entries: Sequence[str | RunFile]) -> tuple[RunFile, ...]:
    return tuple(RunFile(entry) if isinstance(entry, str) else entry for entry in entries)


def _problems(experiment: Experiment) -> Iterator[str]:
    """Say what is wrong with names, seeds and chains."""
    names = list(experiment.cells)
    if not names:
        yield "cells: there is none; name at least one, or give a grid"
        return
    if experiment.against not in names:
        yield f"baseline: {unknown_name(experiment.against, names, what='cell')}"
    if not experiment.seeds:
        yield "seeds: there is none; give at least one integer"
    for seed in experiment.seeds:
        if experiment.seeds.count(seed) > 1:
            yield f"seeds: {seed} is there twice"
        if seed < 0:
            yield f"seeds: found {seed}, expected at least 0"
    stems = set()
    for name, entry in experiment.cells.items():
        if not NAME.fullmatch(name):
            yield (
                f"cells.{name}: folders are named after cells; take letters, digits and _.+=-, "
                "beginning with a letter or a digit"
            )
        recipes, evaluate = _chains(experiment, name)
        here = [file.stem for file in (*recipes, *evaluate)]
        stems.update(here)
        is_own = entry.recipes is not None or entry.evaluate is not None
        for problem in _chain_problems(recipes, evaluate):
            yield f"cells.{name}.{problem}" if is_own else problem
        yield from _unknown_stems(entry.own_options, here, where=f"cells.{name}.own_options")
    yield from _unknown_stems(experiment.own_options, sorted(stems), where="own_options")
    for where, options in _all_options(experiment):
        for key in _own_keys(options):
            yield f"{where}: {key} is what the experiment sets itself; use seeds, or --out"


def _own_keys(options: Options) -> list[str]:
    """Return the keys among options that an experiment sets itself, also those in mappings."""
    given = flatten(options)
    return [key for key in OWN_KEYS if key in given]


def _unknown_stems(
    own_options: Mapping[str, Options], known: Sequence[str], *, where: str
) -> Iterator[str]:
    """Say which options are of run files that are not there."""
    for stem in own_options:
        if stem not in known:
            yield f"{where}: {unknown_name(stem, known, what='run file')}"


def _chain_problems(recipes: Sequence[RunFile], evaluate: Sequence[RunFile]) -> Iterator[str]:
    """Say what is wrong with the order of a chain."""
    if not recipes and not evaluate:
        yield "recipes: there are none, and no evaluation; there is nothing to do"
    for what, files in (("recipes", recipes), ("evaluate", evaluate)):
        stems = [file.stem for file in files]
        for stem in stems:
            if stems.count(stem) > 1:
                yield f"{what}: two files are called '{stem}', and folders are named after them"
    before: list[str] = []
    for file in (*recipes, *evaluate):
        what = "recipe before it" if len(before) < len(recipes) else "recipe"
        for stem in file.start or ():
            if stem not in before:
                yield f"{file.stem}.start: {unknown_name(stem, before, what=what)}"
        if len(before) < len(recipes):
            before.append(file.stem)


def _start_problems(experiment: Experiment, cell: Cell) -> Iterator[str]:
    """Say which run files are told twice what to start from."""
    layers: list[tuple[str, Experiment | CellEntry]] = [("", experiment)]
    layers.append((f"cells.{cell.name}.", experiment.cells[cell.name]))
    for step in cell.steps:
        for where, layer in layers:
            for key in CHECKPOINT_KEYS[: len(step.start)]:
                if key in flatten(layer.own_options.get(step.stem, {})):
                    before = " and ".join(cell.steps[place].stem for place in step.start)
                    yield (
                        f"{where}own_options.{step.stem}: {key} is the run of {before}, from which "
                        "it starts; write `{file: ..., start: []}` where the file is listed to "
                        "start from elsewhere"
                    )


def _all_options(experiment: Experiment) -> Iterator[tuple[str, Options]]:
    """Yield every mapping of options with its dotted key."""
    layers: list[tuple[str, Experiment | CellEntry]] = [("", experiment)]
    layers += [(f"cells.{name}.", cell) for name, cell in experiment.cells.items()]
    for where, layer in layers:
        yield f"{where}options", layer.options
        yield f"{where}train_options", layer.train_options
        yield f"{where}eval_options", layer.eval_options
        for stem, options in layer.own_options.items():
            yield f"{where}own_options.{stem}", options
