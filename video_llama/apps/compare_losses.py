"""Losses of two runs on the same samples, at the end of training, from their ledgers.

The samples are learnt from, so this says how well a cell fits, not how well it does on others. A
loss is compared only where both supervise the same number of tokens; with other tokenizers or
templates, nats per token are of other tokens.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from video_llama.apps.compare_data import paired_runs
from video_llama.apps.compare_runs import CellRuns, names_in_order, seed_pairs
from video_llama.runners.ledger import Entry, SampleEntry, read_entries
from video_llama.tasks.paired import Difference, paired_difference
from video_llama.tasks.verdicts import Verdict, judge

TAIL = 0.1
"""Share of the steps, at the end, whose losses are compared."""

MATTERS = 0.05
"""Share of the baseline's loss that nobody wants to miss."""

Clip = Hashable
Losses = Mapping[Clip, tuple[float, float]]
"""Mean losses of a cell and of the baseline, by clip."""


@dataclass(frozen=True)
class LossComparison:
    """A cell's losses beside the baseline's.

    Attributes:
        cell: its name.
        recipe: the last run that both have.
        here: mean loss of the cell in nats per supervised token, over clips and seeds.
        there: of the baseline.
        difference: paired by clip; None where there is nothing to pair.
        verdict: judged together with those of other cells.
        reason: why there is none, "" if there is.
    """

    cell: str
    recipe: str
    here: float | None = None
    there: float | None = None
    difference: Difference | None = None
    verdict: Verdict | None = None
    reason: str = ""


def compare_losses(cells: Sequence[CellRuns], *, baseline: str) -> list[LossComparison]:
    """Compare the last losses of every cell with the baseline's.

    Args:
        cells: every cell with every seed.
        baseline: name of the cell the others are compared with.
    """
    base = {runs.seed: runs for runs in cells if runs.name == baseline}
    found = []
    for name in names_in_order(cells, baseline=baseline)[1:]:
        own = {runs.seed: runs for runs in cells if runs.name == name}
        pairs, _ = seed_pairs(list(own), list(base))
        couples = [(own[seed].train, base[other].train) for seed, other in pairs]
        if any(here and there for here, there in couples):
            found.append(_compare(name, couples))
    differences = [one.difference for one in found if one.difference is not None]
    limits = [MATTERS * abs(one.there or 0.0) for one in found if one.difference is not None]
    verdicts = iter(judge(differences, lower_is_better=True, matters=limits))
    return [
        one
        if one.difference is None
        else LossComparison(
            one.cell, one.recipe, one.here, one.there, one.difference, next(verdicts)
        )
        for one in found
    ]


def _compare(name: str, couples: Sequence[tuple[Sequence[Path], Sequence[Path]]]) -> LossComparison:
    """Compare one cell, its seeds beside the baseline's."""
    by_seed: list[Losses] = []
    recipe = ""
    for own, theirs in couples:
        both = [pair for pair in paired_runs(own, theirs) if pair[1] and pair[2]]
        if not both:
            return LossComparison(name, recipe, reason="no run has a partner")
        recipe, here, there = both[-1]
        assert here is not None, "chosen so"
        assert there is not None, "chosen so"
        losses = _paired_losses(_tail(here), _tail(there))
        if isinstance(losses, str):
            return LossComparison(name, recipe, reason=losses)
        by_seed.append(losses)
    clips = [clip for clip in by_seed[0] if all(clip in losses for losses in by_seed)]
    if not clips:
        return LossComparison(name, recipe, reason="no clip was met with every seed")
    here_SC = [[losses[clip][0] for clip in clips] for losses in by_seed]
    there_SC = [[losses[clip][1] for clip in clips] for losses in by_seed]
    return LossComparison(
        name,
        recipe,
        here=fmean(value for row in here_SC for value in row),
        there=fmean(value for row in there_SC for value in row),
        difference=paired_difference(here_SC, there_SC, clips=clips, measure="loss"),
    )


def _tail(folder: Path) -> list[Entry]:
    """Return the last entries of a run's ledger."""
    kept: deque[Entry] = deque()
    for num, entry in enumerate(read_entries(folder), start=1):
        kept.append(entry)
        while len(kept) > max(1, round(num * TAIL)):
            kept.popleft()
    return list(kept)


def _paired_losses(here: Sequence[Entry], there: Sequence[Entry]) -> Losses | str:
    """Return mean losses by clip, or why there are none."""
    ours, theirs = _by_place(here), _by_place(there)
    if not ours or not theirs:
        return "no ledger"
    if ours.keys() != theirs.keys():
        return "the last steps are of other samples"
    by_clip: dict[Clip, list[tuple[float, float]]] = defaultdict(list)
    for place, one in ours.items():
        other = theirs[place]
        if one.num_targets != other.num_targets:
            return (
                f"'{one.trace.key}' has {one.num_targets} supervised tokens and "
                f"{other.num_targets}: other texts, tokenizers or templates"
            )
        if one.mean_loss is not None and other.mean_loss is not None:
            clip = frozenset(item.path for item in one.trace.media) or one.trace.key
            by_clip[clip].append((one.mean_loss, other.mean_loss))
    return {
        clip: (fmean(a for a, _ in pairs), fmean(b for _, b in pairs))
        for clip, pairs in by_clip.items()
    }


def _by_place(entries: Sequence[Entry]) -> dict[tuple[int, int, str], SampleEntry]:
    """Return samples by step, position and key."""
    return {
        (entry.step, sample.trace.position, sample.trace.key): sample
        for entry in entries
        for sample in entry.samples
    }
