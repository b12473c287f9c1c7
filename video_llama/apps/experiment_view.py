"""What an experiment would do, as a table: cells, what learns in them, how long, what is reused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from video_llama.apps.experiment_checks import Facts
from video_llama.apps.experiment_runs import Chain
from video_llama.apps.experiment_stamp import Standing
from video_llama.apps.experiment_work import FactsOf

MAX_CHANGES = 6
"""Options in which a cell differs that are shown."""


def show_cells(
    chains: Sequence[Chain],
    *,
    facts: FactsOf,
    standings: Mapping[str, Sequence[Standing]],
    console: Console,
) -> None:
    """Print a row for every cell.

    Args:
        chains: of all cells and seeds, the baseline's first.
        facts: of the cells.
        standings: what is in the folders of a chain's runs, by its name.
        console: where the table goes.
    """
    table = Table("cell", "run files", "learns", "differs in", "seeds", "runs", show_lines=True)
    base = chains[0]
    for name in dict.fromkeys(chain.cell.name for chain in chains):
        own = [chain for chain in chains if chain.cell.name == name]
        first = own[0]
        found = [standing for chain in own for standing in standings[chain.name]]
        table.add_row(
            f"{name}\n(baseline)" if name == base.cell.name else name,
            "\n".join(_lengths(first, facts[name])),
            "\n".join(_learning(first, facts[name])),
            "\n".join(_changes(first, base)),
            ", ".join(str(chain.seed) for chain in own),
            _state(found),
        )
    console.print(table)


def _lengths(chain: Chain, facts: Mapping[str, Facts]) -> list[str]:
    """Return a line for every run file: how long it takes."""
    return [
        f"{run.step.folder}: {facts[run.step.folder].size:,} "
        + ("steps" if run.step.learns else "questions")
        for run in chain.runs
    ]


def _learning(chain: Chain, facts: Mapping[str, Facts]) -> list[str]:
    """Return a line for every recipe: the parameters that learn."""
    return [
        f"{sum(map(math.prod, facts[run.step.folder].learned.values())):,}" for run in chain.recipes
    ]


def _changes(chain: Chain, base: Chain) -> list[str]:
    """Return the options in which a cell differs from the baseline, as they are written."""
    theirs = {run.step.stem: run.step.options for run in base.runs}
    changes: dict[str, None] = {}
    for run in chain.runs:
        if run.step.stem not in theirs:
            changes[f"{run.step.stem}, a run file of its own"] = None
            continue
        here, there = run.step.options, theirs[run.step.stem]
        for key in (*here, *(key for key in there if key not in here)):
            if here.get(key, ...) != there.get(key, ...):
                value = json.dumps(here[key]) if key in here else "as in the run file"
                changes[f"{key}: {value}"] = None
    shown = list(changes)
    more = len(shown) - MAX_CHANGES
    return [*shown[:MAX_CHANGES], f"and {more} more"] if more > 0 else shown


def _state(standings: Sequence[Standing]) -> str:
    """Say how many runs are done, begun, or to be made."""
    done = sum(standing.is_finished for standing in standings)
    other = sum(bool(standing.changes) for standing in standings)
    begun = sum(standing.is_there for standing in standings) - done - other
    counts = {"reused": done, "to go on": begun, "another run": other}
    left = len(standings) - done - begun - other
    texts = [f"{number} {what}" for what, number in {**counts, "to do": left}.items() if number]
    return "\n".join(texts)
