"""An experiment with all its runs loaded and looked at; all mistakes are told at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.apps.experiment_cells import Cell
from video_llama.apps.experiment_checks import Checker, Facts
from video_llama.apps.experiment_data import WAY_OUT, data_differences, shown
from video_llama.apps.experiment_file import Experiment
from video_llama.apps.experiment_problems import sentences
from video_llama.apps.experiment_runs import Chain, Loader, Run
from video_llama.apps.experiment_stamp import Standing, standings
from video_llama.common.errors import ConfigError

MAX_CHANGES = 5
"""Settings that are others now which are written out of a run."""


@dataclass(frozen=True)
class Opened:
    """An experiment whose cells are known to be in order.

    Attributes:
        experiment: its file.
        out: its folder.
        chains: every cell with every seed; all cells of a seed before the next seed.
        facts: of the cells' runs, by cell and folder.
        remarks: how the data of cells differ that say so, and which cells do not differ at all.
    """

    experiment: Experiment
    out: Path
    chains: tuple[Chain, ...]
    facts: Mapping[str, Mapping[str, Facts]]
    remarks: tuple[str, ...]

    def standings(self) -> dict[str, list[Standing]]:
        """Say what is in the folders of all runs, by the name of their chain."""
        return {chain.name: standings(chain) for chain in self.chains}


def open_experiment(
    experiment: Experiment, *, cells: Sequence[Cell], out: Path, num_ranks: int
) -> Opened:
    """Load and check all cells.

    Args:
        experiment: its file.
        cells: of it, the baseline first.
        out: its folder.
        num_ranks: processes of a run.

    Raises:
        ConfigError: with everything that is wrong with any cell.
    """
    loader = Loader(out, experiment.feature_cache)
    opened = [loader.chain(cell, seed=seed) for seed in experiment.seeds for cell in cells]
    chains = [chain for chain in opened if chain is not None]
    checker = Checker(num_ranks=num_ranks)
    first = {c.cell.name: c for c in chains if c.seed == experiment.seeds[0]}
    facts = {name: checker.check(chain) for name, chain in first.items()}
    problems = sentences([*loader.problems, *checker.problems])
    remarks: list[str] = []
    base = first.get(experiment.against)
    for name, chain in first.items():
        whole = all(len(facts[c.cell.name]) == len(c.runs) for c in (chain, base or chain))
        if base is None or not whole:
            continue
        differences = data_differences(
            chain, base, facts=facts[name], base_facts=facts[base.cell.name]
        )
        if differences and chain.cell.data == "same":
            problems.append(
                f"cells.{name}: it would not see the same samples: {shown(differences)}; {WAY_OUT}"
            )
        elif differences:
            remarks.append(f"{name} has data of its own: {shown(differences)}")
    if problems:
        raise ConfigError(problems)
    remarks += _same_settings(first.values())
    return Opened(experiment, out, tuple(chains), facts, tuple(remarks))


def _same_settings(chains: Iterable[Chain]) -> Iterator[str]:
    """Say which cells have the same settings."""
    names: dict[str, list[str]] = {}
    for chain in chains:
        trees = [(run.step.file, run.config.resolved) for run in chain.runs]
        text = json.dumps(trees, sort_keys=True, default=str, ensure_ascii=False)
        settings = text.replace(str(chain.runs[0].folder.parent), "")
        names.setdefault(settings, []).append(chain.cell.name)
    for same in names.values():
        if len(same) > 1:
            yield f"{', '.join(same)}: all settings of these cells are the same"


def changed_runs(opened: Opened) -> list[tuple[Run, Standing]]:
    """Return the runs whose folders hold another one, with what is there."""
    found = opened.standings()
    return [
        (run, standing)
        for chain in opened.chains
        for run, standing in zip(chain.runs, found[chain.name], strict=True)
        if standing.changes
    ]


def change_problems(changed: Sequence[tuple[Run, Standing]]) -> list[str]:
    """Say why runs are not gone on with: one sentence for every cell with a seed."""
    first: dict[tuple[str, int], tuple[Run, Standing]] = {}
    for run, standing in changed:
        first.setdefault((run.cell, run.seed), (run, standing))
    texts = []
    for run, standing in first.values():
        more = len(standing.changes) - MAX_CHANGES
        changes = "; ".join(standing.changes[:MAX_CHANGES])
        changes += f"; and {more} more" if more > 0 else ""
        texts.append(
            f"{run.folder}: it holds another run: {changes}; put the settings back, take another "
            "--out, or set such runs aside and make them again with --redo-changed"
        )
    return texts
