"""An order for data that are read block by block: far jumps are rare, and still nothing repeats.

A shard behind a network is cheap to read as a whole and dear to visit for one sample. A pass goes
through the blocks in an order of its own, `window` of them at a time, and through the samples of
such a group in any order. Like every order here it is a function of the seed and the place alone.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from video_llama.common.rng import fold, permutation


@dataclass(frozen=True)
class Blocks:
    """Samples that lie together, and how far they are shuffled.

    Attributes:
        sizes: samples per block, in the order of their indices.
        window: blocks that are shuffled into one another.
    """

    sizes: tuple[int, ...]
    window: int

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Index of the first sample of each block, and behind them the number of all samples."""
        return tuple(itertools.accumulate(self.sizes, initial=0))

    def block_of(self, index: int) -> int:
        """Return the block that a sample lies in."""
        return bisect_right(self.starts, index) - 1

    def range_of(self, index: int) -> range:
        """Return the samples of the block that a sample lies in."""
        block = self.block_of(index)
        return range(self.starts[block], self.starts[block + 1])


class Windows:
    """The groups of blocks that a pass goes through one after another, in an order of its own.

    Args:
        blocks: of the data set.
        seed: of the pass.

    Attributes:
        starts: place of the first sample of each group, and behind them the number of all samples.
    """

    def __init__(self, blocks: Blocks, *, seed: int) -> None:
        self._blocks = blocks
        shuffled = permutation(len(blocks.sizes), seed=fold(seed, "blocks"))
        self._groups = [
            shuffled[start : start + blocks.window]
            for start in range(0, len(shuffled), blocks.window)
        ]
        sizes = (sum(blocks.sizes[block] for block in group) for group in self._groups)
        self.starts = list(itertools.accumulate(sizes, initial=0))

    def at(self, place: int) -> int:
        """Return the number of the group that a place of the pass lies in."""
        return bisect_right(self.starts, place) - 1

    def indices(self, number: int) -> NDArray[np.int64]:
        """Return the samples of a group, block by block."""
        starts = self._blocks.starts
        return np.concatenate(
            [np.arange(starts[block], starts[block + 1]) for block in self._groups[number]]
        )


class BlockOrder:
    """The order of one pass; `order[place]` is the index of a sample.

    Only the groups in use are in memory, two at a time: a batch may touch both.

    Args:
        blocks: of the data set.
        seed: of the pass.
    """

    def __init__(self, blocks: Blocks, *, seed: int) -> None:
        self._seed = seed
        self._windows = Windows(blocks, seed=seed)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, place: int) -> int:
        """Return the index of the sample at a place of the pass."""
        number = self._windows.at(place)
        return int(self._order(number)[place - self._windows.starts[number]])

    def _order(self, number: int) -> NDArray[np.int64]:
        """Return the shuffled indices of a group."""
        if number not in self._orders:
            if len(self._orders) == 2:
                del self._orders[min(self._orders)]
            indices = self._windows.indices(number)
            seed = fold(self._seed, "window", number)
            self._orders[number] = indices[permutation(len(indices), seed=seed)]
        return self._orders[number]
