"""What came out of an experiment: finished cells compared, the others named."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from rich.console import Console

from video_llama.apps.compare_cells import compare_cells, save_comparison
from video_llama.apps.compare_model import Comparison
from video_llama.apps.compare_runs import CellRuns
from video_llama.apps.experiment_open import Opened
from video_llama.apps.experiment_runs import Chain
from video_llama.apps.experiment_stamp import standings

NOT_RUN = "not run yet"


def report(
    opened: Opened, *, only: Collection[str], failed: Mapping[Path, str], console: Console
) -> bool:
    """Compare what is finished, print the verdicts, and say what is missing or not as it should be.

    Args:
        opened: the experiment.
        only: cells that were to be run; what others lack is said, too.
        failed: why runs of this call failed, by their folder.
        console: where it is printed.

    Returns:
        Whether nothing is missing of these cells, those that were to see the same data did, and all
        were asked the same.
    """
    missing = {chain.name: _missing(chain, failed) for chain in opened.chains}
    whole = [chain for chain in opened.chains if missing[chain.name] is None]
    told = [f"{name} is missing: {text}" for name, text in missing.items() if text is not None]
    written: list[Path] = []
    lacks = any(missing[chain.name] for chain in opened.chains if chain.cell.name in only)
    names = {chain.cell.name for chain in whole}
    if opened.experiment.against not in names or len(names) < 2:
        told.append(f"nothing to compare: finished are {', '.join(sorted(names)) or 'no cells'}")
    else:
        comparison = _compare(opened, whole, missing=told)
        told += comparison.problems
        written = sorted(opened.out.glob("re*.*"))
        lacks = lacks or bool(comparison.problems)
    for text in told:
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    for path in written:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    return not lacks


def _compare(opened: Opened, whole: list[Chain], *, missing: list[str]) -> Comparison:
    """Compare the chains that are finished, and write it down."""
    experiment = opened.experiment
    comparison = compare_cells(
        [
            CellRuns(
                chain.cell.name,
                chain.seed,
                train=tuple(run.folder for run in chain.recipes),
                evaluations=tuple(run.folder for run in chain.evaluations),
                has_own_data=chain.cell.data == "own",
            )
            for chain in whole
        ],
        baseline=experiment.against,
        title=experiment.title,
        question=experiment.question,
        missing=missing,
    )
    save_comparison(comparison, folder=opened.out)
    return comparison


def _missing(chain: Chain, failed: Mapping[Path, str]) -> str | None:
    """Say why a chain is not finished, None if it is."""
    found = zip(chain.runs, standings(chain), strict=True)
    left = [run for run, standing in found if not standing.is_finished]
    if not left:
        return None
    reasons = [failed[run.folder] for run in left if run.folder in failed]
    return reasons[0].splitlines()[0] if reasons else NOT_RUN
