"""Which sample comes when: an order that is a function of the seed and the position alone.

Position counts samples since step 0 of the run and never restarts. A step draws one data set by
its ratio; a data set counts its own samples and goes through them in passes, each pass in an
order of its own, every sample exactly once: shuffled, or block by block (`blocks`), or with those
of like length together (`length_order`). Ranks, workers and accumulation only cut a step's samples
into pieces: micro-batch m of rank r takes the slice (m * ranks + r) of the step, so that 1, 2 or 4
ranks at the same global batch size see the same samples in the same order. Any step can be asked
for at once; nothing is replayed.

Reading the samples is the business of `mixture`.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from video_llama.common.errors import ConfigError
from video_llama.common.rng import fold, permutation, uniform
from video_llama.datasets.blocks import BlockOrder, Blocks
from video_llama.datasets.length_order import LengthOrder, SampleLengths

Order = NDArray[np.int64] | BlockOrder | LengthOrder
"""Of one pass: the index of a sample by its place."""


class Share(NamedTuple):
    """What the plan must know of a data set.

    Attributes:
        length: number of samples.
        ratio: weight in the mixture.
        blocks: samples that are read together, None where any order costs the same.
        lengths: of the samples, where batches are to hold those of like length.
    """

    length: int
    ratio: float
    blocks: Blocks | None = None
    lengths: SampleLengths | None = None


@dataclass(frozen=True)
class SampleRef:
    """One place of the order.

    Attributes:
        dataset: name of the data set.
        index: of the sample in it.
        pass_index: how often the data set has been gone through before.
        position: samples of all data sets before this one since step 0.
    """

    dataset: str
    index: int
    pass_index: int
    position: int


class Plan:
    """The order of a whole run.

    Args:
        seed: of the run.
        datasets: their shares by name; the order of the names does not matter.
        batch_size: samples per rank and forward pass.
        world_size: ranks.
        accum: forward passes per optimizer step.

    Raises:
        ConfigError: a data set is empty, or its ratio is not above 0.
    """

    def __init__(
        self,
        *,
        seed: int,
        datasets: Mapping[str, Share | tuple[int, float]],
        batch_size: int,
        world_size: int = 1,
        accum: int = 1,
    ) -> None:
        self.seed = seed
        self.batch_size = batch_size
        self.world_size = world_size
        self.accum = accum
        self.shares = {name: Share(*datasets[name]) for name in sorted(datasets)}
        problems = [
            f"datasets.{name}: {share.length} samples at sample_ratio {share.ratio}; "
            "both must be above 0"
            for name, share in self.shares.items()
            if share.length < 1 or share.ratio <= 0
        ]
        if not self.shares:
            problems.append("datasets: none has split: train, so there is nothing to learn from")
        if problems:
            raise ConfigError(problems)
        self._names = list(self.shares)
        self._cumulative = list(itertools.accumulate(s.ratio for s in self.shares.values()))
        self._drawn = array("i")
        self._drawn_before = array("q")
        self._num_drawn = [0] * len(self._names)
        self._orders: dict[str, dict[int, Order]] = {name: {} for name in self._names}

    @property
    def global_batch_size(self) -> int:
        """Samples of one optimizer step, over all ranks and micro-batches."""
        return self.batch_size * self.world_size * self.accum

    def dataset_of(self, step: int) -> str:
        """Return the data set that an optimizer step draws from."""
        self._draw_up_to(step)
        return self._names[self._drawn[step]]

    def step(self, step: int) -> list[SampleRef]:
        """Return all samples of an optimizer step, those of every rank."""
        return self._slice(step, start=0, stop=self.global_batch_size)

    def micro_batch(self, step: int, *, micro_step: int, rank: int) -> list[SampleRef]:
        """Return the samples of one forward pass of one rank."""
        start = (micro_step * self.world_size + rank) * self.batch_size
        return self._slice(step, start=start, stop=start + self.batch_size)

    def passes(self, num_steps: int) -> dict[str, float]:
        """Say how often each data set has been gone through after `num_steps` steps."""
        self._draw_up_to(num_steps - 1)
        drawn = np.bincount(self._drawn[:num_steps], minlength=len(self._names))
        return {
            name: float(count) * self.global_batch_size / self.shares[name].length
            for name, count in zip(self._names, drawn, strict=True)
        }

    def _slice(self, step: int, *, start: int, stop: int) -> list[SampleRef]:
        """Return some of a step's samples."""
        name = self.dataset_of(step)
        size = self.global_batch_size
        first = self._drawn_before[step] * size
        return [
            self._ref(name, local=first + offset, position=step * size + offset)
            for offset in range(start, stop)
        ]

    def _draw_up_to(self, step: int) -> None:
        """Draw the data sets of all steps up to this one, and count them."""
        for number in range(len(self._drawn), step + 1):
            point = uniform(self.seed, "dataset", number) * self._cumulative[-1]
            index = min(bisect_right(self._cumulative, point), len(self._names) - 1)
            self._drawn.append(index)
            self._drawn_before.append(self._num_drawn[index])
            self._num_drawn[index] += 1

    def _ref(self, name: str, *, local: int, position: int) -> SampleRef:
        """Return the sample at a data set's own position `local`."""
        pass_index, place = divmod(local, self.shares[name].length)
        index = int(self._order(name, pass_index)[place])
        return SampleRef(dataset=name, index=index, pass_index=pass_index, position=position)

    def _order(self, name: str, pass_index: int) -> Order:
        """Return the order of a pass; the last two are kept, a batch may touch both."""
        orders = self._orders[name]
        if pass_index not in orders:
            if len(orders) == 2:
                del orders[min(orders)]
            orders[pass_index] = self._new_order(name, pass_index)
        return orders[pass_index]

    def _new_order(self, name: str, pass_index: int) -> Order:
        """Make the order of a pass."""
        seed = fold(self.seed, "order", name, pass_index)
        share = self.shares[name]
        if share.lengths is not None:
            return LengthOrder(
                share.lengths,
                seed=seed,
                batch_size=self.global_batch_size,
                started=pass_index * share.length % self.global_batch_size,
                blocks=share.blocks,
            )
        if share.blocks is not None:
            return BlockOrder(share.blocks, seed=seed)
        return permutation(share.length, seed=seed)


class PlanSampler(Sampler[list[SampleRef]]):
    """The micro-batches of one rank, as the `batch_sampler` of a torch `DataLoader`.

    Args:
        plan: the order.
        rank: of this process.
        start_step: first optimizer step.
        num_steps: optimizer steps to yield; each gives `plan.accum` micro-batches.
    """

    def __init__(self, plan: Plan, *, rank: int, start_step: int, num_steps: int) -> None:
        self.plan = plan
        self.rank = rank
        self.start_step = start_step
        self.num_steps = num_steps

    def __len__(self) -> int:
        return self.num_steps * self.plan.accum

    def __iter__(self) -> Iterator[list[SampleRef]]:
        for step in range(self.start_step, self.start_step + self.num_steps):
            for micro_step in range(self.plan.accum):
                yield self.plan.micro_batch(step, micro_step=micro_step, rank=self.rank)


def in_order(
    name: str, length: int, *, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[list[SampleRef]]:
    """Return one rank's batches of one data set in file order, for evaluation.

    Samples are dealt out one by one, so that ranks differ by one sample at most; none is repeated.

    Args:
        name: of the data set.
        length: samples in it.
        batch_size: samples per batch; the last one may be smaller.
        rank: of this process.
        world_size: ranks.
    """
    refs = [SampleRef(name, index, 0, index) for index in range(rank, length, world_size)]
    return [refs[start : start + batch_size] for start in range(0, len(refs), batch_size)]
