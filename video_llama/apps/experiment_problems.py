"""What is wrong with cells, each mistake told once however many cells and run files have it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A mistake.

    Attributes:
        cell: name of the cell.
        stem: of its run file.
        text: a sentence, opening with the dotted key it is about.
    """

    cell: str
    stem: str
    text: str


def sentences(problems: Iterable[Problem]) -> list[str]:
    """Return one sentence per mistake, opening with the cells and run files that have it."""
    places: dict[str, list[Problem]] = {}
    for problem in problems:
        places.setdefault(problem.text, []).append(problem)
    texts = []
    for text, found in places.items():
        cells = list(dict.fromkeys(problem.cell for problem in found))
        stems = list(dict.fromkeys(problem.stem for problem in found))
        dot = "." if len(cells) == 1 else " "
        files = f", {stems[0]}" if len(stems) == 1 else f"; {', '.join(stems)}"
        texts.append(f"cells{dot}{', '.join(cells)}{files}: {text}")
    return texts
