"""Whether cells were trained on the same data, proved by the ledgers of their runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.apps.compare_runs import CellRuns, names_in_order, seed_pairs
from video_llama.runners.same_data import SameData, compare_ledgers

BASELINE = "the baseline"


@dataclass(frozen=True)
class TrainingProof:
    """A run beside that of the baseline.

    Attributes:
        cell: name of the cell.
        seed: of its run.
        recipe: name of the run folder; of both, if they differ.
        same: what the ledgers say.
    """

    cell: str
    seed: int
    recipe: str
    same: SameData


def compare_data(cells: Sequence[CellRuns], *, baseline: str) -> list[TrainingProof]:
    """Hold every run against the baseline's of the same seed.

    Args:
        cells: every cell with every seed.
        baseline: name of the cell the others are compared with.
    """
    proofs = []
    base = {runs.seed: runs for runs in cells if runs.name == baseline}
    for name in names_in_order(cells, baseline=baseline)[1:]:
        own = {runs.seed: runs for runs in cells if runs.name == name}
        pairs, _ = seed_pairs(list(own), list(base))
        for seed, other in pairs:
            for recipe, first, second in paired_runs(own[seed].train, base[other].train):
                same = _compare(name, first, second)
                proofs.append(TrainingProof(name, seed, recipe, same))
    return proofs


def paired_runs(
    own: Sequence[Path], theirs: Sequence[Path]
) -> Iterator[tuple[str, Path | None, Path | None]]:
    """Put run folders beside each other: by name, or else by place in the chain.

    Yields:
        What the pair is called, and both folders; None where one has no partner.
    """
    by_name = {folder.name: folder for folder in theirs}
    if {folder.name for folder in own} & by_name.keys():
        for folder in own:
            yield folder.name, folder, by_name.pop(folder.name, None)
        for name, folder in by_name.items():
            yield name, None, folder
        return
    for place in range(max(len(own), len(theirs))):
        pair = [chain[place] if place < len(chain) else None for chain in (own, theirs)]
        names = dict.fromkeys(folder.name for folder in pair if folder is not None)
        yield " / ".join(names), pair[0], pair[1]


def _compare(name: str, first: Path | None, second: Path | None) -> SameData:
    if first is None or second is None:
        return SameData(problem=f"trained by {BASELINE if first is None else name} alone")
    if first.resolve() == second.resolve():
        return SameData(notes=("it is the very same run",))
    return compare_ledgers(first, second, names=(name, BASELINE))
