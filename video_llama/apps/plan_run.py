"""How long a run takes and what it writes, from what its steps cost.

Computing alone is counted, at a share of the GPU's peak that has to be assumed: waiting for data,
talking to other GPUs, saving and validating come on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from video_llama.apps.plan_memory import Line, Weights
from video_llama.apps.plan_steps import StepCost
from video_llama.common.gpus import Gpu
from video_llama.common.schema import Config, RunConfig
from video_llama.common.types import BranchSpec
from video_llama.datasets.base import DatasetReader
from video_llama.runners.epochs import num_steps

MFU = 0.35
"""Assumed share of the peak. torchtitan publishes 33 to 39 % for Llama 3.1 8B on eight H100s
(benchmarks/llama3_h100_202412_torchtitan.md); no run of this code on a GPU was measured."""

CHECKPOINT_BYTES_PER_WEIGHT = 4 * (1 + 2)
"""Of what learns: the weight and AdamW's moments, in float32."""

LEDGER_BYTES_PER_SAMPLE = 70
"""Compressed. 30 and 65 were measured in toy runs; longer keys and paths take more."""

FRONTIER_ITEMSIZE = 4
"""Features in the cache are float32 unless a part makes others."""


@dataclass(frozen=True)
class Machine:
    """What a run is planned for.

    Attributes:
        gpu: model of every GPU.
        world_size: GPUs of all nodes.
        mfu: share of the peak that is reached.
    """

    gpu: Gpu
    world_size: int
    mfu: float = MFU

    def single_share(self, flops: Mapping[str, float]) -> float:
        """Return the share of the time that operations in float32 take."""
        single = {dtype: number for dtype, number in flops.items() if dtype == "float32"}
        return self.seconds(single) / (self.seconds(flops) or 1.0)

    def seconds(self, flops: Mapping[str, float]) -> float:
        """Return the time one GPU needs for operations given by dtype."""
        tera = sum(number / self.gpu.peak_tflops(dtype) for dtype, number in flops.items())
        return tera / 1e12 / self.mfu


@dataclass(frozen=True)
class RunTime:
    """How long a run computes.

    Attributes:
        num_steps: optimizer steps; None if a pass over data that are not here decides it.
        step_s: seconds of an average one.
        share_cached: share of the items whose features come from the cache.
    """

    num_steps: int | None
    step_s: float
    share_cached: float

    @property
    def total_s(self) -> float | None:
        """Of the whole run."""
        return None if self.num_steps is None else self.num_steps * self.step_s


def run_time(
    config: Config, *, steps: Sequence[StepCost], machine: Machine, lengths: Mapping[str, int]
) -> RunTime:
    """Add up the steps of a run.

    Args:
        config: the run file.
        steps: an iteration of every training set.
        machine: it is planned for.
        lengths: samples of the data sets where that is known; only then it is known how often
            features are read from the cache.
    """
    run = config.run
    steps_in_all = _num_steps(run)
    batch = run.batch_size_train * run.accum_grad_iters * machine.world_size
    step_s, share_cached = 0.0, 0.0
    for step in steps:
        cached = 0.0
        if run.feature_cache is not None and steps_in_all and step.dataset in lengths:
            seen = max(1.0, steps_in_all * batch * step.share)
            cached = max(0.0, 1 - lengths[step.dataset] / seen)
        fresh_s, cached_s = machine.seconds(step.flops), machine.seconds(step.cached_flops)
        mean_s = cached * cached_s + (1 - cached) * fresh_s
        step_s += step.share * run.accum_grad_iters * mean_s
        share_cached += step.share * cached
    return RunTime(steps_in_all, step_s, share_cached)


def count_samples(config: Config, readers: Mapping[str, DatasetReader]) -> dict[str, int]:
    """Return the number of samples of data sets whose annotations are there.

    Only a run with a feature cache needs them, and a large table takes its time.
    """
    if config.run.feature_cache is None:
        return {}
    return {name: len(reader) for name, reader in readers.items() if not reader.missing()}


def disk_lines(
    config: Config,
    *,
    weights: Weights,
    steps: Sequence[StepCost],
    specs: Mapping[str, BranchSpec],
    lengths: Mapping[str, int],
    world_size: int,
) -> list[Line]:
    """Return what a run writes.

    Args:
        config: the run file.
        weights: of its model.
        steps: an iteration of every training set.
        specs: of the model's branches.
        lengths: samples of the data sets where that is known.
        world_size: GPUs of all nodes.
    """
    one = CHECKPOINT_BYTES_PER_WEIGHT * weights.num_trainable
    num = config.run.keep_last + 2
    lines = [Line("checkpoints", num * one, f"keep_last + best + the one being written: {num}")]
    run = config.run
    if run.ledger:
        batch = run.batch_size_train * run.accum_grad_iters * world_size
        num_samples = batch * (_num_steps(run) or 0)
        note = f"{num_samples:,} samples, roughly" if num_samples else "per sample, roughly"
        lines.append(Line("ledger", (num_samples or 1) * LEDGER_BYTES_PER_SAMPLE, note))
    if run.feature_cache is None:
        return lines
    for step in steps:
        item = sum(
            _frontier_bytes(specs[name], num_steps) for name, num_steps in step.takes.items()
        )
        num_items = lengths.get(step.dataset)
        note = f"{num_items:,} items" if num_items else "per item; their number is unknown"
        name = f"feature cache, {step.dataset}"
        lines.append(Line(name, item * (num_items or 1), note))
    return lines


def _num_steps(run: RunConfig) -> int | None:
    """Return the optimizer steps of a run, None if they are not known here."""
    return None if run.iters_per_epoch == "auto" else num_steps(run)


def _frontier_bytes(spec: BranchSpec, num_steps: int) -> int:
    """Return the size of one item's features; only real steps are kept."""
    shape = spec.frontier
    steps = min(num_steps, shape.num_steps)
    return math.prod((steps, shape.num_tokens, shape.width)) * FRONTIER_ITEMSIZE
