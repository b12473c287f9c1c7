"""What can be known to be wrong with the cells of an experiment before the first one starts.

Every run file is looked at as `train --dry-run` and `evaluate` look at it; on top of that, whether
each run would find what it needs in the runs it starts from. Nothing is written, no weight is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from torch import nn

from video_llama.apps.checks import meta_model, start_problems
from video_llama.apps.devices import pick_device
from video_llama.apps.evaluate import asking_settings, open_question_sets
from video_llama.apps.experiment_problems import Problem
from video_llama.apps.experiment_runs import Chain, Run
from video_llama.common.errors import ConfigError
from video_llama.common.registry import registry
from video_llama.common.schema import FRESH, DatasetEntry, PartConfig
from video_llama.datasets.base import DatasetReader
from video_llama.models.branch import Branch
from video_llama.models.sources import CHECKPOINT_KEYS, named_parts
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.data import SPLITS
from video_llama.runners.engines import refuse_unusable
from video_llama.runners.epochs import num_steps, settle_epochs
from video_llama.runners.goal import check_goal
from video_llama.runners.optim import lr_scales
from video_llama.runners.trackers import require_tracker

ONE_DEVICE = re.compile(r"(cuda|xpu):\d+")

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Facts:
    """What is known of a run before it starts.

    Attributes:
        size: optimizer steps, or questions.
        learned: shapes of the parameters that learn, by name; of an evaluation none.
        shapes: those of all parameters.
        lengths: samples of its data sets, by name.
        slots: decoder positions of one item of each branch.
        frontier: the frozen parts before every branch's first part that learns, as one text; None
            if a branch has none, so that not all features can be kept.
    """

    size: int
    learned: Shapes
    shapes: Shapes
    lengths: Mapping[str, int]
    slots: Mapping[str, int]
    frontier: str | None


@dataclass
class Checker:
    """Looks at runs; a data set that many runs read is opened once.

    Attributes:
        num_ranks: processes of a run.
        problems: what was found so far.
    """

    num_ranks: int = 1
    problems: list[Problem] = field(default_factory=list)
    _readers: dict[str, DatasetReader] = field(default_factory=dict)
    _lengths: dict[str, int] = field(default_factory=dict)

    def check(self, chain: Chain) -> dict[str, Facts]:
        """Look at all runs of a cell with one seed.

        Returns:
            What is known of them, by the name of their folder; runs that are wrong are left out.
        """
        facts: dict[str, Facts] = {}
        for run in chain.runs:
            found = self._look_at(run, facts)
            self.problems += [Problem(run.cell, run.step.stem, text) for text in found]
        return facts

    def _look_at(self, run: Run, facts: dict[str, Facts]) -> Iterator[str]:
        """Say what is wrong with a run; if nothing is, add what is known of it."""
        try:
            readers = self._open(run)
            model = meta_model(run.config.model)
        except ConfigError as error:
            yield from error.problems
            return
        to_come = {str(path) for path in run.start}
        learns = run.step.learns
        problems = start_problems(
            run.config, readers, model=model, learning=learns, to_come=to_come
        )
        problems += _machine_problems(run, num_ranks=self.num_ranks)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
        before = {path.name: facts[path.name] for path in run.start if path.name in facts}
        if len(before) == len(run.start):
            problems += _start_problems(run, model, shapes=shapes, before=before)
        yield from problems
        if problems:
            return
        lengths = {name: self._length(name, run.config.datasets[name]) for name in readers}
        facts[run.step.folder] = Facts(
            size=self._size(run, readers) if learns else sum(lengths.values()),
            learned=_learned(model) if learns else {},
            shapes=shapes,
            lengths=lengths,
            slots={n: s.slots(s.spec.num_steps) for n, s in model.branch_specs().items()},
            frontier=_frontier(model),
        )

    def _open(self, run: Run) -> dict[str, DatasetReader]:
        """Return the readers of a run.

        Raises:
            ConfigError: it reads nothing that it could train on or ask about.
        """
        entries = run.config.datasets
        if not run.step.learns:
            asking_settings(run.config)
            for name, reader in open_question_sets(run.config).items():
                self._readers.setdefault(_key(name, entries[name]), reader)
            return {name: self._readers[_key(name, entry)] for name, entry in entries.items()}
        if not any(entry.split == "train" for entry in entries.values()):
            raise ConfigError("datasets: none has split: train, and a recipe trains")
        for name, entry in entries.items():
            if _key(name, entry) not in self._readers:
                reader = registry.get_dataset_class(entry.type)(entry.config, name=name)
                self._readers[_key(name, entry)] = reader
        return {n: self._readers[_key(n, e)] for n, e in entries.items() if e.split in SPLITS}

    def _length(self, name: str, entry: DatasetEntry) -> int:
        key = _key(name, entry)
        if key not in self._lengths:
            self._lengths[key] = len(self._readers[key])
        return self._lengths[key]

    def _size(self, run: Run, readers: Mapping[str, DatasetReader]) -> int:
        """Return the optimizer steps of a recipe."""
        batch = run.global_batch
        return num_steps(settle_epochs(run.config, readers=readers, global_batch_size=batch).run)


def _key(name: str, entry: DatasetEntry) -> str:
    return f"{name} {entry.type} {entry.config}"


def _machine_problems(run: Run, *, num_ranks: int) -> Iterator[str]:
    """Say what is wrong with a run apart from model and data."""
    config = run.config
    if ONE_DEVICE.fullmatch(config.run.device):
        yield (
            f"run.device: {config.run.device} is one device, and the experiment spreads its cells "
            "over those there are; set auto"
        )
        return
    checks: list[Callable[[], object]] = [lambda: pick_device(config.run)]
    if run.step.learns:
        checks += [
            lambda: check_goal(config),
            lambda: require_tracker(config.run.tracker),
            lambda: lr_scales(config),
            lambda: refuse_unusable(config, device=pick_device(config.run)),
        ]
        if config.run.batch_size_train % num_ranks:
            yield (
                f"run.batch_size_train: {config.run.batch_size_train} samples cannot be shared by "
                f"--ranks {num_ranks} processes evenly; choose a multiple"
            )
    for check in checks:
        try:
            check()
        except ConfigError as error:
            yield from error.problems


def _start_problems(
    run: Run, model: VideoLLM, *, shapes: Shapes, before: Mapping[str, Facts]
) -> Iterator[str]:
    """Say what a run would not find, or could not use, in the runs it starts from."""
    learned: Shapes = {}
    for name, facts in before.items():
        learned |= facts.learned
        for key, shape in facts.learned.items():
            if key in shapes and shapes[key] != shape:
                yield (
                    f"{key} is {list(shape)} in {name} and {list(shapes[key])} here; give both run "
                    "files the same sizes (`options` reach all, `train_options` only recipes)"
                )
                return
        strange = [key for key in facts.learned if key not in shapes and _is_for(key, model)]
        if strange:
            yield (
                f"{name} trains {len(strange)} parameters that this model does not have (first: "
                f"{strange[0]}); give both run files the same parts"
            )
    known = {str(path) for path in run.start}
    others = {getattr(run.config.model, key) for key in CHECKPOINT_KEYS} - {None}
    if not run.start or not others <= known:
        return
    for name, part in [*named_parts(run.config.model), ("decoder", run.config.model.decoder)]:
        lacking = [k for k in shapes if k.startswith(f"{name}.") and k not in learned]
        if part.file is None and part.weights != FRESH and lacking:
            yield (
                f"model.{name}: {len(lacking)} parameters come from no file, and "
                f"{', '.join(before)} did not train them (first: {lacking[0]}); name a file, or "
                f"declare the part new: model.{name}.weights={FRESH}"
            )


def _is_for(key: str, model: VideoLLM) -> bool:
    """Tell whether a parameter belongs to something that a model has; whole branches may lack."""
    owner, _, rest = key.partition(".")
    return owner != "branches" or rest.split(".")[0] in model.branches


def _learned(model: VideoLLM) -> Shapes:
    return {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}


def _frontier(model: VideoLLM) -> str | None:
    """Name the frozen parts that features are kept behind, None if there are none for all runs."""
    texts = []
    for name in sorted(model.branches):
        branch = cast(Branch, model.branches[name])
        frozen = list(branch.parts())[: branch.num_frozen]
        if not all(_is_from_file(module, part) for _, module, part in frozen) or not frozen:
            return None
        texts += [f"{name} {p} {c.type} {c.config} {Path(c.weights or '')}" for p, _, c in frozen]
    return "\n".join(texts)


def _is_from_file(module: nn.Module, part: PartConfig) -> bool:
    """Tell whether a part is the same in all runs, and there before the first one is trained."""
    return part.file is not None or not any(True for _ in module.parameters())
