"""What came out of an experiment: finished cells compared, the others named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from video_llama.apps.experiment_open import Opened
from video_llama.apps.experiment_runs import Chain
from video_llama.apps.experiment_stamp import standings

NOT_RUN = "not run yet"


def report(opened: Opened, *, failed: Mapping[Path, str], console: Console) -> dict[str, list[str]]:
    """Compare what is finished, print the verdicts, and say what is missing.

    Args:
        opened: the experiment.
        failed: why runs of this call failed, by their folder.
        console: where it is printed.

    Returns:
        By cell, what is missing of it and why; cells that are whole are left out.
    """
    missing: dict[str, list[str]] = {}
    whole: list[Chain] = []
    for chain in opened.chains:
        found = zip(chain.runs, standings(chain), strict=True)
        left = [run for run, standing in found if not standing.is_finished]
        if left:
            reasons = [failed[run.folder] for run in left if run.folder in failed]
            reason = reasons[0].splitlines()[0] if reasons else NOT_RUN
            missing.setdefault(chain.cell.name, []).append(f"{chain.name}: {reason}")
        else:
            whole.append(chain)
    for text in (text for texts in missing.values() for text in texts):
        console.print(f"missing: {text}", style="red", markup=False, highlight=False)
    return missing
