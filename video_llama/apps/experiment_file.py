"""The file of an experiment: a chain of run files, and what each cell changes of it.

    title: a video Q-Former against an MLP
    recipes: [train_configs/toy/visionbranch_stage1_pretrain.yaml, ...]
    evaluate: [eval_configs/toy/only_vl.yaml]
    seeds: [42, 43, 44]
    cells:
      qformer: {}
      mlp: {options: {model.branches.video.stages: {video_qformer: null, ...}}}

Only the form is read here: what the options mean is the business of the run files they go to, and
`${...}` in them is resolved there. docs/experiments.md has every key.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from video_llama.common.config import SHIPPED_RUN_FILES
from video_llama.common.errors import ConfigError
from video_llama.common.parsing import parse
from video_llama.common.yaml_files import read_yaml

Options = dict[str, Any]
"""Values by dotted key of a run file."""

Data = Literal["same", "own"]
"""Whether a cell must be trained on the data of the baseline, in the same order, or has its own."""


@dataclass(frozen=True)
class RunFile:
    """A run file in the chain of a cell.

    Attributes:
        file: its path.
        start: stems of the recipes whose runs it starts from, as `model.ckpt` and `model.ckpt_2`;
            None for the recipe before it (an evaluation: the last one), none for its own.
    """

    file: str
    start: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.start is not None and len(self.start) > 2:
            raise ValueError(f"start names {len(self.start)} recipes; a run starts from 2 at most")

    @property
    def stem(self) -> str:
        """What the file is called in options, and its runs' folders."""
        return Path(self.file).stem


@dataclass(frozen=True)
class CellEntry:
    """What a cell changes.

    Attributes:
        options: overrides of all its run files.
        train_options: overrides of its recipes.
        eval_options: overrides of its evaluations.
        own_options: overrides of one run file, by stem.
        recipes: in place of the experiment's.
        evaluate: in place of the experiment's.
        data: in place of the experiment's.
    """

    options: Options = field(default_factory=dict)
    train_options: Options = field(default_factory=dict)
    eval_options: Options = field(default_factory=dict)
    own_options: dict[str, Options] = field(default_factory=dict)
    recipes: tuple[str | RunFile, ...] | None = None
    evaluate: tuple[str | RunFile, ...] | None = None
    data: Data | None = None


@dataclass(frozen=True)
class Experiment:
    """A whole file.

    Attributes:
        title: heads the report.
        question: what the experiment answers, a sentence.
        recipes: run files that train, in order; each starts from the one before.
        evaluate: run files that ask.
        options: overrides of all run files of all cells.
        train_options: overrides of all recipes.
        eval_options: overrides of all evaluations.
        own_options: overrides of one run file, by stem.
        seeds: `run.seed` of the recipes; every cell is trained once with each.
        baseline: cell that the others are compared with; the first one if None.
        cells: by name.
        grid: axes, their values by name, and the overrides of each; one cell for every choice.
        data: `same` refuses cells whose settings would give them other samples than the baseline.
        feature_cache: folder for what the frozen encoders compute, for all cells; `shared` takes
            the run files' own where they name one and else one in the experiment's folder; None
            leaves everything to the run files.
        keep: `best` leaves one checkpoint of a run, without its optimizer, once its cell is done.
    """

    title: str
    question: str = ""
    recipes: tuple[str | RunFile, ...] = ()
    evaluate: tuple[str | RunFile, ...] = ()
    options: Options = field(default_factory=dict)
    train_options: Options = field(default_factory=dict)
    eval_options: Options = field(default_factory=dict)
    own_options: dict[str, Options] = field(default_factory=dict)
    seeds: tuple[int, ...] = (42,)
    baseline: str | None = None
    cells: dict[str, CellEntry] = field(default_factory=dict)
    grid: dict[str, dict[str, Options]] = field(default_factory=dict)
    data: Data = "same"
    feature_cache: str | None = "shared"
    keep: Literal["all", "best"] = "all"

    @property
    def against(self) -> str:
        """Name of the cell that the others are compared with."""
        return next(iter(self.cells)) if self.baseline is None else self.baseline


def read_experiment(path: Path, *, seeds: Sequence[int] | None = None) -> Experiment:
    """Read an experiment; its grid comes back written out as cells.

    Args:
        path: the YAML file; looked for in the working directory, then in the package.
        seeds: in place of the file's.

    Raises:
        ConfigError: there is no such file, or keys of it are wrong; all are listed.
    """
    path = _find(path)
    tree = read_yaml(path)
    # `baseline:` with nothing behind it is how a cell without changes is mostly written.
    for key in ("cells", "grid"):
        tree[key] = _filled(tree.get(key))
    if isinstance(tree["grid"], Mapping):
        tree["grid"] = {axis: _filled(values) for axis, values in tree["grid"].items()}
    if seeds is not None:
        tree["seeds"] = list(seeds)
    problems: list[str] = []
    experiment = parse(Experiment, tree, where="experiment", problems=problems)
    if not problems:
        assert isinstance(experiment, Experiment)
        problems += grid_problems(experiment)
    if problems:
        raise ConfigError([text.removeprefix("experiment.") for text in problems], where=str(path))
    cells = experiment.cells | dict(_grid_cells(experiment.grid))
    return replace(experiment, cells=cells, grid={})


def over(below: Options, above: Options) -> Options:
    """Put options over others; the order of keys is that in which they are applied."""
    return {key: value for key, value in below.items() if key not in above} | above


def _filled(node: object) -> object:
    """Put an empty mapping where there is nothing, in a place and in the places below it."""
    if isinstance(node, Mapping):
        return {name: {} if value is None else value for name, value in node.items()}
    return {} if node is None else node


def _find(path: Path) -> Path:
    """Return where an experiment lies: as given, or among those that came with the package.

    Raises:
        ConfigError: it is nowhere; those in its folder are shown.
    """
    roots = (Path(), *SHIPPED_RUN_FILES)
    for root in roots:
        if (root / path).is_file():
            return root / path
    near = sorted({str(path.parent / file.name) for r in roots for file in _beside(r / path)})
    there = f"; there are {', '.join(near)}" if near else ""
    raise ConfigError(f"there is no file {path}{there}")


def _beside(path: Path) -> list[Path]:
    return list(path.parent.glob("*.yaml"))


def grid_problems(experiment: Experiment) -> list[str]:
    """Say which cells of a grid would have the name of another one."""
    names = [name for name, _ in _grid_cells(experiment.grid)]
    return [
        f"grid: cell '{name}' is there twice; give one of them another name"
        for name in dict.fromkeys(names)
        if name in experiment.cells or names.count(name) > 1
    ]


def _grid_cells(grid: Mapping[str, Mapping[str, Options]]) -> Iterator[tuple[str, CellEntry]]:
    """Yield one cell for every choice of values; its name is theirs, joined."""
    if not grid:
        return
    for choice in itertools.product(*(values.items() for values in grid.values())):
        options: Options = {}
        for _, own in choice:
            options = over(options, own)
        yield "-".join(name for name, _ in choice), CellEntry(options=options)
