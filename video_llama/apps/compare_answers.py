"""Cells on the same questions: accuracies by kind, paired differences, and where they disagree.

Verdicts are `tasks.paired`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from video_llama.apps.compare_questions import (
    Answers,
    QuestionProof,
    asked,
    clip_of,
    prove,
    read_sets,
)
from video_llama.apps.compare_runs import CellRuns, names_in_order, seed_pairs
from video_llama.apps.report import by_group
from video_llama.tasks.paired import Difference, mean_with_interval
from video_llama.tasks.paired import paired_difference as paired
from video_llama.tasks.statistics import Estimate
from video_llama.tasks.verdicts import Verdict, judge

ALL = "all questions"
"""Row that pools all kinds."""

MATTERS = 0.05
"""Difference of accuracies that nobody wants to miss."""


@dataclass(frozen=True)
class CellScore:
    """One cell on one group of questions.

    Attributes:
        cell: its name.
        accuracy: over questions and seeds, None if nothing was answered.
        by_seed: accuracy of every seed.
        num_questions: that every seed of the cell answered.
        difference: to the baseline on the questions both answered; None for the baseline itself
            and where there is nothing to pair.
        verdict: judged together with those of the other cells (and kinds).
    """

    cell: str
    accuracy: Estimate | None
    by_seed: Mapping[int, float]
    num_questions: int
    difference: Difference | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class KindRow:
    """One kind of question, or all.

    Attributes:
        kind: its name, `ALL` for all.
        scores: one per cell, the baseline first.
    """

    kind: str
    scores: tuple[CellScore, ...]


@dataclass(frozen=True)
class SetComparison:
    """All cells on one question set.

    Attributes:
        name: of the set.
        rows: all questions first, then every kind.
        proofs: of every cell but the baseline.
        notes: what is missing.
        answers: by cell and seed, for examples.
    """

    name: str
    rows: tuple[KindRow, ...]
    proofs: tuple[QuestionProof, ...]
    notes: tuple[str, ...]
    answers: Mapping[str, Mapping[int, Answers]]


def compare_answers(cells: Sequence[CellRuns], *, baseline: str) -> list[SetComparison]:
    """Compare cells on every question set that at least one of them was asked.

    Args:
        cells: every cell with every seed.
        baseline: name of the cell the others are compared with.
    """
    found = {(runs.name, runs.seed): read_sets(runs) for runs in cells}
    sets = dict.fromkeys(label for labels in found.values() for label in labels)
    return [
        _compare_set(
            label,
            {
                name: {
                    runs.seed: found[name, runs.seed][label]
                    for runs in cells
                    if runs.name == name and label in found[name, runs.seed]
                }
                for name in names_in_order(cells, baseline=baseline)
            },
            expected={name: {r.seed for r in cells if r.name == name} for name, _ in found},
            baseline=baseline,
        )
        for label in sets
    ]


def _compare_set(
    label: str,
    by_cell: Mapping[str, Mapping[int, Answers]],
    *,
    expected: Mapping[str, set[int]],
    baseline: str,
) -> SetComparison:
    """Compare cells on one set."""
    notes = [
        f"{name}: no answers with seed {', '.join(map(str, sorted(seeds - by_cell[name].keys())))}"
        for name, seeds in expected.items()
        if seeds - by_cell[name].keys()
    ]
    answers = [answers for seeds in by_cell.values() for answers in seeds.values()]
    kinds = by_group(dict.fromkeys(p.kind for found in answers for p in found.values()))
    proofs = []
    for name, seeds in by_cell.items():
        pairs, told = seed_pairs(list(seeds), list(by_cell[baseline]))
        if name != baseline and pairs:
            notes += [f"{name}: {text}" for text in told]
            couples = [(seeds[one], by_cell[baseline][other]) for one, other in pairs]
            proofs.append(prove(name, couples))
    rows = _judged([_row(kind, by_cell, baseline=baseline) for kind in (ALL, *kinds)])
    return SetComparison(label, tuple(rows), tuple(proofs), tuple(notes), by_cell)


def _row(kind: str, by_cell: Mapping[str, Mapping[int, Answers]], *, baseline: str) -> KindRow:
    """Score all cells on one kind; verdicts come later."""
    usable = {
        name: {seed: _usable(answers, kind) for seed, answers in seeds.items()}
        for name, seeds in by_cell.items()
    }
    return KindRow(
        kind,
        tuple(
            _score(name, seeds, against=None if name == baseline else usable[baseline])
            for name, seeds in usable.items()
        ),
    )


def _usable(answers: Answers, kind: str) -> Answers:
    return {
        key: p for key, p in answers.items() if p.error is None and (kind == ALL or p.kind == kind)
    }


def _score(
    name: str, seeds: Mapping[int, Answers], *, against: Mapping[int, Answers] | None
) -> CellScore:
    """Score one cell, and pair it with the baseline."""
    common = _common(list(seeds.values()))
    by_seed = {seed: _mean(answers) for seed, answers in seeds.items() if answers}
    if not common:
        return CellScore(name, None, by_seed, 0)
    clips = [clip_of(next(iter(seeds.values()))[key]) for key in common]
    table = [[float(answers[key].correct) for key in common] for answers in seeds.values()]
    accuracy = mean_with_interval(table, clips=clips, measure="accuracy")
    return CellScore(name, accuracy, by_seed, len(common), _difference(seeds, against))


def _difference(
    seeds: Mapping[int, Answers], against: Mapping[int, Answers] | None
) -> Difference | None:
    """Pair seed with seed and question with question."""
    pairs, _ = seed_pairs(list(seeds), list(against or {}))
    couples = [(seeds[one], (against or {})[other]) for one, other in pairs]
    shared = _common([answers for couple in couples for answers in couple])
    common = [k for k in shared if all(asked(a[k]) == asked(b[k]) for a, b in couples)]
    if not common:
        return None
    return paired(
        [[float(here[key].correct) for key in common] for here, _ in couples],
        [[float(there[key].correct) for key in common] for _, there in couples],
        clips=[clip_of(couples[0][0][key]) for key in common],
        measure="accuracy",
    )


def _common(answers: Sequence[Answers]) -> list[str]:
    """Return the keys that all have, in the order of the first."""
    first, *others = answers or [{}]
    return [key for key in first if all(key in other for other in others)]


def _mean(answers: Answers) -> float:
    return sum(p.correct for p in answers.values()) / len(answers)


def _judged(rows: Sequence[KindRow]) -> list[KindRow]:
    """Add verdicts: cells on all questions are one family, cells by kinds another."""
    judged = [*_family(rows[:1])]
    return [*judged, *_family(rows[1:])]


def _family(rows: Sequence[KindRow]) -> list[KindRow]:
    differences = [s.difference for row in rows for s in row.scores if s.difference is not None]
    verdicts = iter(judge(differences, matters=MATTERS))
    return [
        KindRow(
            row.kind,
            tuple(
                score if score.difference is None else _with_verdict(score, next(verdicts))
                for score in row.scores
            ),
        )
        for row in rows
    ]


def _with_verdict(score: CellScore, verdict: Verdict) -> CellScore:
    return CellScore(
        score.cell,
        score.accuracy,
        score.by_seed,
        score.num_questions,
        score.difference,
        verdict,
    )
