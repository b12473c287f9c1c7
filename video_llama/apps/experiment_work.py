"""What an experiment has to do, as tasks; done as far as it can be, and what was done is kept.

The first seed of all cells comes first, so that there is something to compare early. Runs on the
same frozen parts share one cache of features, which is filled once, ahead of those that need it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from video_llama.apps.experiment_checks import Facts
from video_llama.apps.experiment_jobs import EvaluationJob, TrainJob
from video_llama.apps.experiment_runs import Chain, Run
from video_llama.apps.experiment_stamp import settings_of, standings, write_stamp
from video_llama.apps.features_job import FeaturesJob
from video_llama.apps.lanes import Slots, Task, run_tasks
from video_llama.apps.verb_processes import Verbs
from video_llama.common.logger import get_logger
from video_llama.runners.retention import STEP_PATTERN

FEATURES_BAR = "features for all"

FactsOf = Mapping[str, Mapping[str, Facts]]
"""Facts by cell, then by folder."""


@dataclass
class Work:
    """What is left to do.

    Attributes:
        tasks: in an order in which they can be done.
        runs: by position among the tasks; the others compute features.
    """

    tasks: list[Task] = field(default_factory=list)
    runs: dict[int, Run] = field(default_factory=dict)


@dataclass(frozen=True)
class _Warming:
    """Features that several chains need.

    Attributes:
        frontier: the frozen parts that make them.
        datasets: names of the sets whose media are read whole, and what they are.
    """

    frontier: str
    datasets: tuple[tuple[str, str], ...]


def plan_work(chains: Sequence[Chain], *, facts: FactsOf, logs: Path) -> Work:
    """Return what is left to do of the chains.

    Args:
        chains: in the order in which they shall be done.
        facts: of their cells.
        logs: folder for the logs of what computes features.
    """
    work = Work()
    left = [(chain, _unfinished(chain)) for chain in chains]
    warm = _add_warming(work, left, facts=facts, num_seeds=len({c.seed for c in chains}), logs=logs)
    for chain, runs in left:
        places: dict[Path, int] = {}
        for run in runs:
            size = facts[chain.cell.name][run.step.folder].size
            job = TrainJob(run, size) if run.step.learns else EvaluationJob(run, size)
            before = [places[path] for path in run.start if path in places]
            before += warm.get(run.folder, [])
            places[run.folder] = len(work.tasks)
            work.runs[len(work.tasks)] = run
            work.tasks.append(Task(job, bar=chain.name, after=tuple(before)))
    return work


def do_work(
    work: Work, chains: Sequence[Chain], *, slots: Slots, keeps_all: bool, lock: int
) -> dict[Path, str]:
    """Do what is left; what fails takes only those that need it with it.

    Args:
        work: from `plan_work`.
        chains: those it is of.
        slots: where runs compute.
        keeps_all: else a run keeps one checkpoint once its chain is done.
        lock: file that stays open as long as any run.

    Returns:
        Why runs failed or were left out, by their folder.
    """
    settings = {folder: own for chain in chains for folder, own in settings_of(chain).items()}
    if not keeps_all:
        _prune(chains)

    def start(position: int) -> None:
        if run := work.runs.get(position):
            write_stamp(run, settings=settings[str(run.folder)], is_finished=False)

    def finish(position: int) -> None:
        if run := work.runs.get(position):
            write_stamp(run, settings=settings[str(run.folder)], is_finished=True)
            get_logger().info("done: %s", run.name)
            if not keeps_all:
                _prune([chain for chain in chains if run in chain.runs])

    with Verbs(warm=None if work.tasks else False, kept_open=(lock,)) as verbs:
        failed = run_tasks(
            work.tasks,
            slots=slots,
            verbs=verbs,
            keeps_going=True,
            on_start=start,
            on_done=finish,
        )
    return {work.runs[p].folder: text for p, text in failed.items() if p in work.runs}


def _prune(chains: Sequence[Chain]) -> None:
    """Leave one checkpoint of every run of the chains that are finished."""
    for chain in chains:
        if not _unfinished(chain):
            for run in chain.recipes:
                keep_best(run.folder / "checkpoints")


def keep_best(checkpoints: Path) -> None:
    """Leave one checkpoint of a finished run, the best or else the last, without its optimizer."""
    links = [checkpoints / name for name in ("best", "last") if (checkpoints / name).exists()]
    if not links:
        return
    kept = links[0].resolve()
    for path in checkpoints.iterdir():
        if path.is_symlink() and path.resolve() != kept:
            path.unlink()
        elif STEP_PATTERN.match(path.name) and path.resolve() != kept:
            shutil.rmtree(path)
    (kept / "optimizer.safetensors").unlink(missing_ok=True)


def _unfinished(chain: Chain) -> list[Run]:
    """Return the runs of a chain that are not finished."""
    found = zip(chain.runs, standings(chain), strict=True)
    return [run for run, standing in found if not standing.is_finished]


def _add_warming(
    work: Work,
    left: Sequence[tuple[Chain, Sequence[Run]]],
    *,
    facts: FactsOf,
    num_seeds: int,
    logs: Path,
) -> dict[Path, list[int]]:
    """Add a task for all features that more than one chain needs.

    Returns:
        Positions of the tasks that each run waits for, by its folder.
    """
    wanted: dict[_Warming, list[Run]] = {}
    for chain, runs in left:
        for run in runs:
            known = facts[chain.cell.name][run.step.folder]
            names = _read_whole(run, known, num_seeds=num_seeds)
            if known.frontier is not None and run.config.run.feature_cache is not None and names:
                datasets = tuple((n, str(run.config.datasets[n].config)) for n in names)
                where = f"{run.config.run.feature_cache}\n{known.frontier}"
                wanted.setdefault(_Warming(where, datasets), []).append(run)
    after: dict[Path, list[int]] = {}
    last: dict[str, int] = {}
    for number, (warming, runs) in enumerate(wanted.items()):
        if len({(run.cell, run.seed) for run in runs}) < 2:
            continue
        sets = tuple(name for name, _ in warming.datasets)
        folder = logs / f"features_{number}"
        job = FeaturesJob("features", folder, runs[0].step.file, runs[0].words, sets)
        # Media that several data sets show are computed once, one set after the other.
        before = (last[warming.frontier],) if warming.frontier in last else ()
        last[warming.frontier] = len(work.tasks)
        for run in runs:
            after.setdefault(run.folder, []).append(len(work.tasks))
        work.tasks.append(Task(job, bar=FEATURES_BAR, after=before))
    return after


def _read_whole(run: Run, facts: Facts, *, num_seeds: int) -> list[str]:
    """Return the data sets of which the runs of all seeds read about everything."""
    entries = {name: run.config.datasets[name] for name in facts.lengths}
    train = {name: entry for name, entry in entries.items() if entry.split == "train"}
    weights = sum(entry.sample_ratio for entry in train.values())
    names = []
    for name, entry in entries.items():
        share = entry.sample_ratio / weights if name in train and run.step.learns else None
        drawn = None if share is None else facts.size * run.global_batch * share * num_seeds
        if drawn is None or drawn >= facts.lengths[name]:
            names.append(name)
    return names
