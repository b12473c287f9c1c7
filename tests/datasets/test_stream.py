"""The order is a function of seed and position; ranks, workers and restarts change nothing."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from video_llama.common.errors import ConfigError
from video_llama.datasets.stream import Plan, PlanSampler, in_order

SETS = st.dictionaries(
    st.sampled_from(["webvid", "cc3m", "llava"]),
    st.tuples(st.integers(1, 40), st.floats(0.1, 10)),
    min_size=1,
)


class Echo(Dataset):
    def __getitem__(self, ref):
        return ref


def order_of(plan, *, num_steps, start_step=0, num_workers=0):
    """The samples of all ranks, put together step by step as an optimizer sees them."""
    streams = [
        iter(
            DataLoader(
                Echo(),
                batch_sampler=PlanSampler(
                    plan, rank=rank, start_step=start_step, num_steps=num_steps
                ),
                collate_fn=list,
                num_workers=num_workers,
            )
        )
        for rank in range(plan.world_size)
    ]
    return [
        [ref for _ in range(plan.accum) for stream in streams for ref in next(stream)]
        for _ in range(num_steps)
    ]


@settings(max_examples=40, deadline=None)
@given(SETS, st.integers(0, 2**31), st.integers(1, 3))
def test_ranks_and_accumulation_see_the_samples_of_one_process(datasets, seed, batch_size):
    size = 4 * batch_size
    alone = Plan(seed=seed, datasets=datasets, batch_size=size)
    expected = order_of(alone, num_steps=5)
    for world_size, accum in ((4, 1), (2, 2), (1, 4)):
        plan = Plan(
            seed=seed,
            datasets=datasets,
            batch_size=batch_size,
            world_size=world_size,
            accum=accum,
        )
        assert order_of(plan, num_steps=5) == expected


@settings(max_examples=40, deadline=None)
@given(SETS, st.integers(0, 2**31), st.integers(0, 30))
def test_a_run_that_starts_late_sees_what_an_uninterrupted_one_sees(datasets, seed, start):
    whole = order_of(Plan(seed=seed, datasets=datasets, batch_size=3), num_steps=start + 4)
    late = Plan(seed=seed, datasets=datasets, batch_size=3)
    assert order_of(late, start_step=start, num_steps=4) == whole[start:]


def test_workers_do_not_change_the_order():
    datasets = {"a": (7, 1.0), "b": (5, 2.0)}
    plan = Plan(seed=1, datasets=datasets, batch_size=2, accum=2)
    assert order_of(plan, num_steps=6, num_workers=2) == order_of(plan, num_steps=6)


@settings(max_examples=40, deadline=None)
@given(SETS, st.integers(0, 2**31), st.integers(1, 9))
def test_every_pass_holds_every_sample_once(datasets, seed, batch_size):
    plan = Plan(seed=seed, datasets=datasets, batch_size=batch_size)
    seen: dict[tuple[str, int], list[int]] = {}
    for step in range(40):
        for ref in plan.step(step):
            seen.setdefault((ref.dataset, ref.pass_index), []).append(ref.index)
    for (name, pass_index), indices in seen.items():
        length = datasets[name][0]
        assert len(set(indices)) == len(indices)
        if (name, pass_index + 1) in seen:
            assert sorted(indices) == list(range(length))


def test_passes_differ_in_their_order():
    plan = Plan(seed=3, datasets={"a": (50, 1.0)}, batch_size=50)
    first, second = ([ref.index for ref in plan.step(step)] for step in (0, 1))
    assert first != second


def test_a_data_set_keeps_its_order_when_another_joins():
    alone = Plan(seed=3, datasets={"a": (50, 1.0)}, batch_size=5)
    both = Plan(seed=3, datasets={"a": (50, 1.0), "b": (9, 1.0)}, batch_size=5)
    steps = [step for step in range(40) if both.dataset_of(step) == "a"][:10]
    indices = [[ref.index for ref in both.step(step)] for step in steps]
    assert indices == [[ref.index for ref in alone.step(step)] for step in range(10)]


def test_positions_count_every_sample_of_the_run():
    plan = Plan(seed=3, datasets={"a": (5, 1.0), "b": (9, 1.0)}, batch_size=2, world_size=2)
    positions = [ref.position for step in range(6) for ref in plan.step(step)]
    assert positions == list(range(24))


def test_data_sets_are_drawn_by_their_ratios():
    # Video-LLaMA's stage 1 mixes WebVid and LLaVA-CC3M 100 : 24.
    plan = Plan(seed=42, datasets={"webvid": (10, 100.0), "cc3m": (10, 24.0)}, batch_size=1)
    counts = Counter(plan.dataset_of(step) for step in range(10_000))
    # 8065 expected; the standard deviation is 39.5
    assert abs(counts["webvid"] - 10_000 * 100 / 124) < 4 * 39.5


def test_passes_are_counted_in_fractions():
    plan = Plan(seed=0, datasets={"a": (8, 1.0)}, batch_size=2, world_size=3)
    assert plan.passes(2) == {"a": 12 / 8}


def test_an_empty_data_set_is_named():
    with pytest.raises(ConfigError, match=r"datasets\.b: 0 samples"):
        Plan(seed=0, datasets={"a": (1, 1.0), "b": (0, 1.0)}, batch_size=1)


@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 4))
def test_evaluation_gives_every_sample_to_one_rank_once(length, batch_size, world_size):
    dealt = [
        ref.index
        for rank in range(world_size)
        for batch in in_order(
            "test", length, batch_size=batch_size, rank=rank, world_size=world_size
        )
        for ref in batch
    ]
    assert sorted(dealt) == list(range(length))
