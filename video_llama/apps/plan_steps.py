"""What the steps of a run cost: floating point operations and the memory they need on the way.

Every sample is taken to be as long as `model.max_txt_len` allows, with every position behind its
media supervised, and every clip to have all its frames: no step costs more. Measured on the model
itself, see `models.costs`.

Shapes: B batch, L text, S supervised positions of a batch, T time steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from video_llama.apps.checks import meta_model
from video_llama.common.schema import Config
from video_llama.common.types import BranchSpec, MediaKind
from video_llama.datasets.base import DatasetReader
from video_llama.models.costs import Cost, CostMeter, Recomputing, add_flops


@dataclass(frozen=True)
class StepMemory:
    """Most bytes alive at once in an iteration besides weights, gradients and moments.

    Attributes:
        activation_bytes: without logits.
        logit_bytes: what predicting S words adds.
    """

    activation_bytes: int
    logit_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both."""
        return self.activation_bytes + self.logit_bytes


@dataclass(frozen=True)
class StepCost:
    """One iteration of one rank on samples of one data set.

    Attributes:
        dataset: its name.
        share: of the steps, 0..1.
        takes: steps T of the items of every branch with something to do.
        flops: by dtype, with features computed.
        cached_flops: by dtype, with features taken from the cache.
        memory: what is alive besides weights, gradients and moments.
        recomputed_bytes: the same in all if every layer were computed again in the backward pass.
    """

    dataset: str
    share: float
    takes: Mapping[str, int]
    flops: Mapping[str, float]
    cached_flops: Mapping[str, float]
    memory: StepMemory
    recomputed_bytes: int


class StepPlanner:
    """Measures the steps of a run file.

    Args:
        config: the typed run file.
        length: L of an average sample, for operations alone; None for the longest.

    Raises:
        Uncountable: a part cannot be run without data.
    """

    def __init__(self, config: Config, *, length: int | None = None) -> None:
        self.config = config
        self.length = length or config.model.max_txt_len
        model = meta_model(config.model)
        self.specs = model.branch_specs()
        self._rows = config.run.batch_size_train
        self._meter = CostMeter(model, precision=config.run.precision)
        self._known: dict[tuple[object, ...], Cost] = {}

    def steps(self, readers: Mapping[str, DatasetReader]) -> list[StepCost]:
        """Measure a step of every training set."""
        entries = {n: e for n, e in self.config.datasets.items() if e.split == "train"}
        whole = sum(entry.sample_ratio for entry in entries.values())
        return [
            self._step(name, share=entry.sample_ratio / whole, kinds=readers[name].kinds)
            for name, entry in entries.items()
        ]

    def _step(self, name: str, *, share: float, kinds: Sequence[MediaKind] | None) -> StepCost:
        takes = dict(_steps_of_branches(self.specs, kinds))
        slots = sum(self.specs[branch].slots(steps) for branch, steps in takes.items())
        cached = dict(
            self._decoder("as written", length=max(self.length, slots + 2), slots=slots).flops
        )
        heads: dict[str, float] = {}
        for branch, steps in takes.items():
            tail, whole = (
                self._branch("as written", branch, steps=steps, is_cached=is_cached)
                for is_cached in (True, False)
            )
            cached = add_flops(cached, tail.flops)
            times = self._rows if self._meter.has_frontier(branch) else 1
            heads = add_flops(heads, add_flops(whole.flops, tail.flops, times=-1), times=times)
        return StepCost(
            dataset=name,
            share=share,
            takes=takes,
            flops=add_flops(cached, heads),
            cached_flops=cached,
            memory=self._memory(takes, slots=slots),
            recomputed_bytes=self._most_alive("everywhere", takes=takes, slots=slots),
        )

    def _memory(self, takes: Mapping[str, int], *, slots: int) -> StepMemory:
        with_words, wordless = (
            self._decoder("as written", length=self.config.model.max_txt_len, slots=supervised)
            for supervised in (slots, None)
        )
        logits = with_words.peak_bytes - wordless.peak_bytes
        return StepMemory(self._most_alive("as written", takes=takes, slots=slots) - logits, logits)

    def _most_alive(self, recomputing: Recomputing, *, takes: Mapping[str, int], slots: int) -> int:
        """Return the most bytes alive: while the decoder works, or a branch before it."""
        decoder = self._decoder(recomputing, length=self.config.model.max_txt_len, slots=slots)
        kept, most = 0, 0
        for branch, steps in takes.items():
            cost = self._branch(recomputing, branch, steps=steps, is_cached=False)
            most = max(most, kept + cost.peak_bytes)
            kept += cost.kept_bytes
        return max(most, kept + decoder.peak_bytes)

    def _decoder(self, recomputing: Recomputing, *, length: int, slots: int | None) -> Cost:
        """Measure the decoder; `slots` None supervises one position alone."""
        targets = 1 if slots is None else self._rows * max(1, length - slots)
        return self._measure(
            ("decoder", recomputing, length, targets),
            lambda: self._meter.decoder(rows=self._rows, length=length, targets=targets),
        )

    def _branch(self, recomputing: Recomputing, name: str, *, steps: int, is_cached: bool) -> Cost:
        """Measure a branch: all items cached, or one raw, as they come to the frontier one by one.

        A branch without a frontier is run on all items at once.
        """
        rows, raw = self._rows, 0 if is_cached else 1
        if not self._meter.has_frontier(name):
            if is_cached:
                return Cost()
            rows = raw = self._rows
        return self._measure(
            (name, recomputing, raw and steps, raw),
            lambda: self._meter.branch(name, raw=raw, cached=rows - raw, steps=steps),
        )

    def _measure(self, key: tuple[object, ...], measure: Callable[[], Cost]) -> Cost:
        if key not in self._known:
            self._meter.recompute(cast(Recomputing, key[1]))
            self._known[key] = measure()
        return self._known[key]


def _steps_of_branches(
    specs: Mapping[str, BranchSpec], kinds: Sequence[MediaKind] | None
) -> Iterator[tuple[str, int]]:
    """Yield the branches that some kinds of media go to, and how many steps an item has there.

    Samples of unknown kinds are taken to use all branches.
    """
    for name, spec in specs.items():
        taken = set(spec.media) if kinds is None else set(spec.media) & set(kinds)
        if taken:
            yield name, 1 if taken == {"image"} else spec.spec.num_steps
