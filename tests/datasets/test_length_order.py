"""Batches of one kind of medium and of like length, in an order of position alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.datasets.blocks import Blocks
from video_llama.datasets.length_order import POOLS, LengthOrder, SampleLengths, group
from video_llama.datasets.stream import Plan, Share

TEXT, IMAGE, VIDEO = 0, 1, 2
SAMPLES = st.lists(
    st.tuples(st.sampled_from([TEXT, IMAGE, VIDEO]), st.integers(1, 40)), min_size=1, max_size=80
)
"""Pool and length of every sample."""

SEEDS = st.integers(0, 2**62)


def lengths_of(samples) -> SampleLengths:
    pools, positions = zip(*samples, strict=True)
    return SampleLengths(np.array(positions, np.int32), np.array(pools, np.int8))


def plan_of(samples, *, seed, batch_size, world_size=1, accum=1, blocks=None) -> Plan:
    share = Share(len(samples), 1.0, blocks, lengths_of(samples))
    return Plan(
        seed=seed,
        datasets={"tune": share},
        batch_size=batch_size,
        world_size=world_size,
        accum=accum,
    )


def least_mixed(samples, *, batch_size: int) -> int:
    """Fewest batches of more than one pool, by hand: the rests must stand somewhere.

    Only where the largest pool can fill all gaps, as it can wherever it has two batches to spare.
    """
    counts = Counter(pool for pool, _ in samples)
    largest = max(sorted(counts), key=lambda pool: counts[pool])
    rests = sum(num % batch_size for pool, num in counts.items() if pool != largest)
    return -(-rests // batch_size)


def batches_of(order, *, num, batch_size, started=0) -> list[list[int]]:
    """The samples of a pass, cut where steps end; the first and the last may be part of a batch."""
    head = -started % batch_size
    cuts = [0, *range(head, num, batch_size), num] if head else [*range(0, num, batch_size), num]
    pairs = zip(cuts, cuts[1:], strict=False)
    return [[order[place] for place in range(a, b)] for a, b in pairs if a < b]


@given(SAMPLES, SEEDS, st.integers(1, 9), st.integers(0, 8))
def test_a_pass_gives_every_sample_once(samples, seed, batch_size, started):
    started %= batch_size
    order = LengthOrder(lengths_of(samples), seed=seed, batch_size=batch_size, started=started)
    found = [order[place] for place in range(len(samples))]
    assert sorted(found) == list(range(len(samples)))


@given(SAMPLES, SEEDS, st.integers(1, 6), st.integers(0, 5))
def test_mixed_batches_are_the_fewest_there_can_be(samples, seed, batch_size, started):
    started %= batch_size
    # Enough of one pool to fill the gaps of all others.
    samples = [*samples, *[(VIDEO, 7)] * (len(samples) + 4 * batch_size)]
    order = LengthOrder(lengths_of(samples), seed=seed, batch_size=batch_size, started=started)
    batches = batches_of(order, num=len(samples), batch_size=batch_size, started=started)
    mixed = [batch for batch in batches if len({samples[index][0] for index in batch}) > 1]
    assert len(mixed) == least_mixed(samples, batch_size=batch_size)
    # What the pass shares with its neighbours is of the largest pool on both sides.
    partial = [batch for batch in batches if len(batch) < batch_size]
    assert {samples[index][0] for batch in partial for index in batch} <= {VIDEO}


@given(SAMPLES, SEEDS, st.integers(2, 8))
def test_samples_of_a_batch_stand_by_pool_and_falling_length(samples, seed, batch_size):
    order = LengthOrder(lengths_of(samples), seed=seed, batch_size=batch_size)
    for batch in batches_of(order, num=len(samples), batch_size=batch_size):
        shown = [(samples[index][0], -samples[index][1]) for index in batch]
        assert shown == sorted(shown)


@given(SAMPLES, SEEDS)
def test_a_mega_batch_is_cut_where_lengths_fall(samples, seed):
    """Of one pool, all batches of a mega-batch put together again are sorted."""
    lengths = lengths_of([(TEXT, length) for _, length in samples])
    found = group(np.arange(len(samples)), lengths=lengths, seed=seed, batch_size=2)
    batches = found[: len(samples) // 2 * 2].reshape(-1, 2)
    num_sorted = max(1, min(len(batches) // 2, 100))
    ranges = sorted((int(lengths.positions[a]), int(lengths.positions[b])) for a, b in batches)
    # In each sorted run a batch begins where the one before ended: with r runs no length can lie
    # strictly inside of more than r batches.
    num_runs = -(-len(batches) // num_sorted)
    for length in range(1, 41):
        assert sum(low < length < high for high, low in ranges) <= num_runs


@settings(max_examples=30, deadline=None)
@given(SAMPLES, SEEDS, st.sampled_from([None, 1, 2]))
def test_ranks_accumulation_and_restarts_see_the_same_order(samples, seed, window):
    blocks = None if window is None else Blocks((len(samples) // 2, -(-len(samples) // 2)), window)
    alone = plan_of(samples, seed=seed, batch_size=8, blocks=blocks)
    expected = [alone.step(step) for step in range(12)]
    for world_size, accum in ((4, 1), (2, 2), (1, 4)):
        plan = plan_of(
            samples, seed=seed, batch_size=2, world_size=world_size, accum=accum, blocks=blocks
        )
        # From the last step to the first: nothing may depend on what was asked before.
        for step in reversed(range(12)):
            found = [
                ref
                for micro_step in range(accum)
                for rank in range(world_size)
                for ref in plan.micro_batch(step, micro_step=micro_step, rank=rank)
            ]
            assert found == expected[step]


@settings(max_examples=30, deadline=None)
@given(SAMPLES, SEEDS, st.integers(1, 7))
def test_every_pass_of_a_run_holds_every_sample_once_wherever_it_begins(samples, seed, batch_size):
    plan = plan_of(samples, seed=seed, batch_size=batch_size)
    num_steps = 3 * len(samples) // batch_size + 1
    refs = [ref for step in range(num_steps) for ref in plan.step(step)][: 3 * len(samples)]
    for pass_index in range(3):
        found = [ref.index for ref in refs if ref.pass_index == pass_index]
        assert sorted(found) == list(range(len(samples)))


@given(SEEDS)
@settings(max_examples=20)
def test_steps_of_a_run_are_pure_across_passes(seed):
    # 50 clips and 30 texts in batches of 8: rests of 6 texts make one mixed batch a pass, and
    # 80 is a multiple of 8, so nothing is shared; 83 samples share a batch of the largest pool.
    for num_clips in (50, 53):
        samples = [(VIDEO, 9)] * num_clips + [(TEXT, 3)] * 30
        plan = plan_of(samples, seed=seed, batch_size=8)
        num_steps = 8 * len(samples) // 8
        steps = [{samples[ref.index][0] for ref in plan.step(step)} for step in range(num_steps)]
        assert sum(len(pools) > 1 for pools in steps) == 8


@pytest.mark.parametrize("window", [1, 2, 5])
def test_shards_are_still_gone_through_window_by_window(window):
    generator = np.random.default_rng(0)
    samples = [(int(p), int(n)) for p, n in generator.integers([0, 1], [3, 40], size=(40, 2))]
    blocks = Blocks((8,) * 5, window)
    plan = plan_of(samples, seed=3, batch_size=4, blocks=blocks)
    order = [ref.index for step in range(10) for ref in plan.step(step)]
    size = 8 * window
    groups = [order[start : start + size] for start in range(0, 40, size)]
    assert [len({blocks.block_of(index) for index in each}) for each in groups] == [
        min(window, 5 - start) for start in range(0, 5, window)
    ]
    assert sorted(order) == list(range(40))


def test_passes_and_seeds_differ_in_batches_and_in_their_order():
    samples = [(TEXT, 1 + number % 40) for number in range(400)]
    order = {
        seed: [LengthOrder(lengths_of(samples), seed=seed, batch_size=4)[p] for p in range(400)]
        for seed in (1, 2)
    }
    batches = {
        seed: {frozenset(found[p : p + 4]) for p in range(0, 400, 4)}
        for seed, found in order.items()
    }
    assert len(batches[1] & batches[2]) < 10
    # A mega-batch is 50 of the 100 batches, and none is left in falling order.
    firsts = [samples[order[1][place]][1] for place in range(0, 400, 4)]
    assert all(firsts[a : a + 50] != sorted(firsts[a : a + 50])[::-1] for a in (0, 50))


def test_a_sample_longer_than_all_others_wastes_one_micro_batch_alone():
    samples = [(TEXT, 10)] * 63 + [(TEXT, 1000)]
    plan = plan_of(samples, seed=0, batch_size=4, world_size=2, accum=2)
    padded = [
        max(samples[ref.index][1] for ref in batch)
        for step in range(4)
        for micro_step in range(2)
        for rank in range(2)
        if (batch := plan.micro_batch(step, micro_step=micro_step, rank=rank))
    ]
    assert sorted(padded) == [10] * 15 + [1000]


def test_a_mixture_groups_each_of_its_data_sets():
    first = [(VIDEO, 9), (TEXT, 3)] * 16
    second = [(IMAGE, 5), (TEXT, 3)] * 8
    shares = {
        name: Share(len(samples), 1.0, None, lengths_of(samples))
        for name, samples in (("a", first), ("b", second))
    }
    plan = Plan(seed=1, datasets=shares, batch_size=8)
    of = {"a": first, "b": second}
    seen = set()
    for step in range(30):
        pools = {POOLS[of[ref.dataset][ref.index][0]] for ref in plan.step(step)}
        assert len(pools) == 1
        seen |= pools
    assert seen == {"text", "image", "video"}
