"""How much of a batch is padding, and how long ranks wait, by the order of the samples.

    OMP_NUM_THREADS=1 python benchmarks/length_grouping.py

The mix is that of Video-LLaVA's second stage, a tenth of it: pictures, clips and text in the
published numbers, 256 slots a picture and 2,056 a clip, and texts drawn from log-normal
distributions, cut at 3,072 positions. The orders: shuffled; transformers' `LengthGroupedSampler`
with the same true lengths; the published rule (words instead of positions, two pools, a mega-batch
is a step), as described in llava_trainer.py; ours. Prints rows of `RESULTS.md`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.trainer_pt_utils import LengthGroupedSampler

from video_llama.datasets.length_order import SampleLengths
from video_llama.datasets.stream import Plan, Share

TEXT, IMAGE, VIDEO = 0, 1, 2
MAX_LEN = 3072
WORDS_PER_TOKEN = 0.75


@dataclass(frozen=True)
class Part:
    """Samples of one kind.

    Attributes:
        num: how many.
        slots: positions of the media of one.
        median: tokens of the text of one.
        spread: standard deviation of its logarithm.
    """

    num: int
    slots: int
    median: float
    spread: float


MIX = {
    TEXT: Part(4_000, 0, 350, 0.8),
    IMAGE: Part(62_500, 256, 180, 0.7),
    VIDEO: Part(10_000, 2056, 120, 0.6),
}


@dataclass(frozen=True)
class Waste:
    """What an order costs, as shares.

    Attributes:
        padding: of the positions that are computed.
        waiting: of the time of the ranks, as the longest micro-batch of a step sets its pace.
        pure: steps whose samples are all of one kind.
    """

    padding: float
    waiting: float
    pure: float


def main() -> None:
    """Print one row for each order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=16, help="samples per rank and iteration")
    parser.add_argument("--ranks", type=int, default=8)
    args = parser.parse_args()
    lengths = draw_lengths(seed=0)
    size = args.batch_size * args.ranks
    print("| order | padding | ranks wait | steps of one kind | order made in |")
    print("|---|---|---|---|---|")
    for name, make in (
        ("shuffled", shuffled),
        ("`LengthGroupedSampler`", length_grouped),
        ("published rule", published),
        ("`group_by_length`", ours),
    ):
        started_s = time.perf_counter()
        order = make(lengths, size)
        seconds = time.perf_counter() - started_s
        waste = measure(order, lengths=lengths, batch_size=args.batch_size, num_ranks=args.ranks)
        print(
            f"| {name} | {100 * waste.padding:.1f} % | {100 * waste.waiting:.1f} % | "
            f"{100 * waste.pure:.1f} % | {seconds:.2f} s |"
        )


def draw_lengths(*, seed: int) -> SampleLengths:
    """Return lengths and kinds of the mix, in the order of the files."""
    generator = np.random.default_rng(seed)
    positions, pools = [], []
    for pool, part in MIX.items():
        tokens = np.exp(generator.normal(np.log(part.median), part.spread, part.num))
        positions.append(np.minimum(part.slots + np.maximum(tokens, 8).astype(int), MAX_LEN))
        pools.append(np.full(part.num, pool))
    return SampleLengths(
        np.concatenate(positions).astype(np.int32), np.concatenate(pools).astype(np.int8)
    )


def shuffled(lengths: SampleLengths, size: int) -> NDArray[np.int64]:
    """Return any order."""
    return np.random.default_rng(1).permutation(len(lengths.positions))


def length_grouped(lengths: SampleLengths, size: int) -> NDArray[np.int64]:
    """Return the order of transformers, told the true lengths."""
    generator = torch.Generator().manual_seed(1)
    known = lengths.positions.tolist()
    return np.array(list(LengthGroupedSampler(size, lengths=known, generator=generator)))


def published(lengths: SampleLengths, size: int) -> NDArray[np.int64]:
    """Return an order by words, in a pool with media and one without."""
    generator = np.random.default_rng(1)
    slots = np.array([MIX[pool].slots for pool in MIX])[lengths.pools]
    words = ((lengths.positions - slots) * WORDS_PER_TOKEN).astype(int)
    batches, rests = [], []
    for members in (np.flatnonzero(lengths.pools != TEXT), np.flatnonzero(lengths.pools == TEXT)):
        members = generator.permutation(members)
        num_whole = len(members) // size * size
        rests.append(members[num_whole:])
        for batch in members[:num_whole].reshape(-1, size):
            batches.append(batch[np.argsort(-words[batch], kind="stable")])
    order = [batches[number] for number in generator.permutation(len(batches))]
    return np.concatenate([*order, *rests])


def ours(lengths: SampleLengths, size: int) -> NDArray[np.int64]:
    """Return the order of `run.group_by_length`."""
    share = Share(len(lengths.positions), 1.0, None, lengths)
    plan = Plan(seed=1, datasets={"mix": share}, batch_size=size)
    num_steps = len(lengths.positions) // size
    return np.array([ref.index for step in range(num_steps) for ref in plan.step(step)])


def measure(
    order: Sequence[int] | NDArray[np.int64],
    *,
    lengths: SampleLengths,
    batch_size: int,
    num_ranks: int,
) -> Waste:
    """Cut an order into steps of ranks, one after another, and count.

    Args:
        order: indices.
        lengths: of the samples.
        batch_size: samples per rank and step.
        num_ranks: ranks of a step.
    """
    size = batch_size * num_ranks
    steps = np.asarray(order)[: len(order) // size * size].reshape(-1, num_ranks, batch_size)
    positions = lengths.positions[steps].astype(np.int64)
    padded = positions.max(axis=2) * batch_size
    pools = lengths.pools[steps].reshape(len(steps), size)
    return Waste(
        padding=1 - positions.sum() / padded.sum(),
        waiting=1 - padded.sum() / (padded.max(axis=1) * num_ranks).sum(),
        pure=float((pools == pools[:, :1]).all(axis=1).mean()),
    )


if __name__ == "__main__":
    main()
