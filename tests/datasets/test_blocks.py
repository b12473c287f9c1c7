"""Data in blocks are gone through block by block, and the order is still one of position alone."""

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.datasets.blocks import BlockOrder, Blocks
from video_llama.datasets.stream import Plan, Share

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


def blocks_in_use(order: list[int], blocks: Blocks) -> list[list[int]]:
    """The block of every sample, cut into the groups that a window allows."""
    numbers = [blocks.block_of(index) for index in order]
    groups: list[list[int]] = []
    for number in numbers:
        if not groups or (number not in groups[-1] and len(set(groups[-1])) == blocks.window):
            groups.append([])
        groups[-1].append(number)
    return groups


@given(SIZES, st.integers(1, 5), st.integers(0, 2**60))
def test_a_pass_gives_every_sample_once(sizes, window, seed):
    blocks = Blocks(tuple(sizes), window)
    order = BlockOrder(blocks, seed=seed)
    assert sorted(order[place] for place in range(sum(sizes))) == list(range(sum(sizes)))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 99))
def test_never_more_blocks_than_the_window_are_in_use(sizes, window, seed):
    blocks = Blocks(tuple(sizes), window)
    order = BlockOrder(blocks, seed=seed)
    groups = blocks_in_use([order[place] for place in range(sum(sizes))], blocks)
    assert len(groups) == -(-len(sizes) // window)
    seen = [number for group in groups for number in dict.fromkeys(group)]
    assert sorted(seen) == list(range(len(sizes)))


@given(SIZES, st.integers(1, 5), st.data())
def test_a_place_can_be_asked_for_alone(sizes, window, data):
    blocks = Blocks(tuple(sizes), window)
    whole = BlockOrder(blocks, seed=3)
    expected = [whole[place] for place in range(sum(sizes))]
    place = data.draw(st.integers(0, sum(sizes) - 1))
    assert BlockOrder(blocks, seed=3)[place] == expected[place]


def test_passes_and_seeds_differ_in_the_order_of_blocks_and_of_samples():
    blocks = Blocks((8,) * 16, window=2)
    orders = [[BlockOrder(blocks, seed=seed)[place] for place in range(128)] for seed in (1, 2)]
    assert orders[0] != orders[1]
    visited = [list(dict.fromkeys(blocks.block_of(i) for i in order)) for order in orders]
    assert visited[0] != visited[1]
    assert orders[0][:16] != sorted(orders[0][:16])


@settings(max_examples=25, deadline=None)
@given(SIZES, st.integers(1, 4), st.integers(0, 2**31))
def test_ranks_accumulation_and_restarts_see_the_same_order(sizes, window, seed):
    share = Share(sum(sizes), 1.0, Blocks(tuple(sizes), window))
    alone = Plan(seed=seed, datasets={"x": share}, batch_size=8)
    expected = [alone.step(step) for step in range(6)]
    for world_size, accum in ((4, 1), (2, 2), (1, 4)):
        plan = Plan(
            seed=seed, datasets={"x": share}, batch_size=2, world_size=world_size, accum=accum
        )
        # From the last step to the first: nothing may depend on what was asked before.
        for step in reversed(range(6)):
            found = [
                ref
                for micro_step in range(accum)
                for rank in range(world_size)
                for ref in plan.micro_batch(step, micro_step=micro_step, rank=rank)
            ]
            assert found == expected[step]


@pytest.mark.parametrize("index", [0, 2, 3, 8])
def test_the_block_of_a_sample_is_found_over_empty_blocks(index):
    blocks = Blocks((3, 0, 4, 2), window=1)
    near = blocks.range_of(index)
    assert index in near
    assert near.start == [0, 3, 7][bisect_right([0, 3, 7], index) - 1]
