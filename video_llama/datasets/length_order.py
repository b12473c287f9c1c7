"""An order whose batches hold samples of one kind of medium and of like length.

A row is padded to the longest of its batch, so that a text of 60 positions beside a clip of 2,100
pays for 2,100. A pass is shuffled, dealt into pools by the longest medium of each sample, each pool
cut into mega-batches that are sorted by length and cut into batches, and the batches shuffled
again. The unit is the global batch, in which samples stand by falling length: however it is cut
into ranks and micro-batches, each of those holds samples of like length too.

Like every order here it is a function of the seed and the place alone, and a pass holds every
sample once. A pass need not begin or end with a batch: the batch it shares with the next pass is
filled from one pool, the largest, from which the rests of the other pools are filled up as well.

The plan of Video-LLaVA's `group_by_modality_length` (llava_trainer.py) and of transformers'
`LengthGroupedSampler`; those count words, or no media, and mix pictures and clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from video_llama.common.rng import fold, permutation
from video_llama.common.types import MEDIA_KINDS
from video_llama.datasets.blocks import Blocks, Windows

POOLS = ("text", *MEDIA_KINDS)
"""Names of the pools, in the order of their numbers; a sample without media goes to the first."""

MEGA_BATCHES = 100
"""Batches that are sorted together, at most. More of them make ranks wait less for the longest
micro-batch of a step (benchmarks/RESULTS.md), and leave less to chance."""

LEAST_MEGA_BATCHES = 2
"""A pool is cut into so many mega-batches at least, where it has that many batches."""


@dataclass(frozen=True)
class SampleLengths:
    """How long the samples of a data set are.

    Attributes:
        positions: int32[num], of the decoder, media included.
        pools: int8[num], numbers in `POOLS`.
    """

    positions: NDArray[np.int32]
    pools: NDArray[np.int8]

    @cached_property
    def largest_pool(self) -> int:
        """Number of the pool with the most samples."""
        return int(np.bincount(self.pools, minlength=len(POOLS)).argmax())


class LengthOrder:
    """The order of one pass; `order[place]` is the index of a sample.

    Args:
        lengths: of the data set.
        seed: of the pass.
        batch_size: samples of an optimizer step, those of all ranks.
        started: samples that the batch holds already with which the pass begins.
        blocks: samples that are read together; they are grouped window by window then.
    """

    def __init__(
        self,
        lengths: SampleLengths,
        *,
        seed: int,
        batch_size: int,
        started: int = 0,
        blocks: Blocks | None = None,
    ) -> None:
        self._lengths = lengths
        self._seed = seed
        self._batch_size = batch_size
        self._started = started
        whole = Blocks((len(lengths.positions),), window=1)
        self._windows = Windows(blocks or whole, seed=seed)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, place: int) -> int:
        """Return the index of the sample at a place of the pass."""
        number = self._windows.at(place)
        return int(self._order(number)[place - self._windows.starts[number]])

    def _order(self, number: int) -> NDArray[np.int64]:
        """Return the indices of a window; the last two are kept, a batch may touch both."""
        if number not in self._orders:
            if len(self._orders) == 2:
                del self._orders[min(self._orders)]
            self._orders[number] = group(
                self._windows.indices(number),
                lengths=self._lengths,
                seed=fold(self._seed, "lengths", number),
                batch_size=self._batch_size,
                started=(self._started + self._windows.starts[number]) % self._batch_size,
            )
        return self._orders[number]


def group(
    indices: NDArray[np.int64],
    *,
    lengths: SampleLengths,
    seed: int,
    batch_size: int,
    started: int = 0,
) -> NDArray[np.int64]:
    """Put samples into an order of which every batch is of one pool and of like length.

    Two of the video pool (v), five of the text pool (t), the largest, in batches of 2 of which
    the first has one already, give

        t | v v | t t | t t       the bars are the ends of batches; the middle ones in any order

    Args:
        indices: of the samples, each once.
        lengths: of the data set.
        seed: of this order.
        batch_size: samples of a batch.
        started: samples that the first batch holds already.

    Returns:
        int64[num], the same indices; mixed batches are as few as can be.
    """
    shuffled = indices[permutation(len(indices), seed=fold(seed, "samples"))]
    pools = _dealt(shuffled, lengths)
    head, pools = _taken(pools, -started % batch_size)
    largest, *others = pools
    batches = []
    rests = []
    for pool in others:
        num_whole = len(pool) // batch_size * batch_size
        batches.append(_by_length(pool[:num_whole], lengths, batch_size=batch_size))
        rests.append(pool[num_whole:])
    num_rests = sum(map(len, rests))
    remaining = np.concatenate([*rests, largest])
    num_whole = len(remaining) // batch_size * batch_size
    num_mixed = min(-(-num_rests // batch_size) * batch_size, num_whole)
    mixed = remaining[:num_mixed].reshape(-1, batch_size)
    batches += [_sorted(batch, lengths) for batch in mixed]
    whole = remaining[num_mixed:num_whole]
    batches.append(_by_length(whole, lengths, batch_size=batch_size))
    rows = np.concatenate(batches).reshape(-1, batch_size)
    rows = rows[permutation(len(rows), seed=fold(seed, "batches"))]
    tail = remaining[num_whole:]
    return np.concatenate([_sorted(head, lengths), rows.reshape(-1), _sorted(tail, lengths)])


def _dealt(indices: NDArray[np.int64], lengths: SampleLengths) -> list[NDArray[np.int64]]:
    """Return the members of every pool in the order of `indices`, the data set's largest first."""
    pools = lengths.pools[indices]
    numbers = sorted(range(len(POOLS)), key=lambda number: number != lengths.largest_pool)
    return [indices[pools == number] for number in numbers]


def _taken(
    pools: Sequence[NDArray[np.int64]], num: int
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Take so many samples, from the first pool if it has them; return them and what is left."""
    taken, left = [], []
    for pool in pools:
        taken.append(pool[:num])
        left.append(pool[num:])
        num -= len(taken[-1])
    return np.concatenate(taken), left


def _by_length(
    pool: NDArray[np.int64], lengths: SampleLengths, *, batch_size: int
) -> NDArray[np.int64]:
    """Sort the mega-batches of a pool by falling length; its length is a multiple of a batch's."""
    num_batches = len(pool) // batch_size
    num_sorted = max(1, min(num_batches // LEAST_MEGA_BATCHES, MEGA_BATCHES)) * batch_size
    mega_batch = np.arange(len(pool)) // num_sorted
    return pool[np.lexsort((-lengths.positions[pool], mega_batch))]


def _sorted(batch: NDArray[np.int64], lengths: SampleLengths) -> NDArray[np.int64]:
    """Sort a batch by pool and falling length."""
    return batch[np.lexsort((-lengths.positions[batch], lengths.pools[batch]))]
