"""Whether the settings of cells say that they would be trained and asked on the same data.

The same data sets, with the same weights, in batches of the same size, for as many steps, give the
same samples in the same order, because order is a function of these and the seed. What the runs
really saw is in their ledgers, and compared after the fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from video_llama.apps.experiment_checks import Facts
from video_llama.apps.experiment_runs import Chain, Run
from video_llama.runners.resume import flatten

MAX_SHOWN = 5
"""Differences of a cell that are written out."""

WAY_OUT = (
    "give it the same, or say that it has data of its own: `data: own`, in the cell or for all"
)


def data_differences(
    chain: Chain, base: Chain, *, facts: Mapping[str, Facts], base_facts: Mapping[str, Facts]
) -> list[str]:
    """Say in which settings that decide its samples a cell differs from the baseline.

    Args:
        chain: the cell, with one seed.
        base: the baseline with the same seed.
        facts: of the cell's runs, by folder.
        base_facts: of the baseline's.
    """
    texts = []
    for own, theirs in (
        (chain.recipes, base.recipes),
        (chain.evaluations, base.evaluations),
    ):
        if len(own) != len(theirs):
            kind = "recipes" if chain.recipes is own else "evaluations"
            texts.append(f"{len(own)} {kind}, and {len(theirs)} in {base.cell.name}")
        for run, other in _pairs(own, theirs):
            slots = [known[r.step.folder].slots for r, known in ((run, facts), (other, base_facts))]
            for key, value, its in _differences(run, other, slots=slots):
                texts.append(f"{run.step.stem}: {key} is {value}, and {its} in {base.cell.name}")
    return texts


def shown(differences: Sequence[str]) -> str:
    """Join differences into a sentence."""
    more = len(differences) - MAX_SHOWN
    return "; ".join(differences[:MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _pairs(own: Sequence[Run], theirs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Put runs beside each other: by the name of their file, or else by place."""
    by_stem = {run.step.stem: run for run in theirs}
    if all(run.step.stem in by_stem for run in own):
        return ((run, by_stem[run.step.stem]) for run in own)
    return zip(own, theirs, strict=False)


def _differences(
    run: Run, other: Run, *, slots: Sequence[Mapping[str, int]]
) -> Iterator[tuple[str, str, str]]:
    """Yield (what, here, there) of everything that decides the samples of a run."""
    here, there = _deciding(run), _deciding(other)
    for key in sorted(here.keys() | there.keys()):
        if here.get(key, ...) != there.get(key, ...):
            yield key, _text(here, key), _text(there, key)
    if run.step.learns and run.config.run.group_by_length and slots[0] != slots[1]:
        yield "the number of slots (run.group_by_length)", str(slots[0]), str(slots[1])


def _deciding(run: Run) -> dict[str, Any]:
    """Return what decides which samples a run reads, and in which order."""
    wanted = ("train",) if run.step.learns else ("train", "valid", "test")
    names = [name for name, entry in run.config.datasets.items() if entry.split in wanted]
    datasets = run.config.resolved["datasets"]
    values = flatten({"datasets": {name: datasets[name] for name in names}})
    if run.step.learns:
        values["samples of a step"] = run.global_batch
        values["length"] = run.length
        values["run.group_by_length"] = run.config.run.group_by_length
        if run.config.run.group_by_length:
            # Batches are put together by length: tokens of the text and slots of the media.
            model = run.config.model
            values["model.template"] = model.template
            values["model.tokenizer"] = model.tokenizer or model.decoder.file
            values["model.max_txt_len"] = model.max_txt_len
    return values


def _text(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "not set"
