"""How much of a GPU's peak a run uses: model FLOPs utilisation (MFU; Chowdhery et al. 2022, PaLM).

Operations are counted as `video-llama plan` counts them, on the network itself without data (see
`models.costs`), once at the start; then a batch's follow from its shapes. What is computed a second
time to save memory does not count, nor what comes from the feature cache; padding does where the
decoder computes it.

Shapes: B batch, L text, S supervised positions of a batch, M rows of a branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from video_llama.common.gpus import recognise
from video_llama.common.logger import get_logger
from video_llama.common.schema import Config, RunConfig
from video_llama.common.types import Batch, BranchInput
from video_llama.models.costs import CostMeter, Uncountable
from video_llama.models.precision import AUTOCAST_DTYPES
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.deepspeed_config import zero_settings

SHORT, LONG = 64, 128
"""Lengths at which the decoder is measured; between and beyond, operations are a square of L."""


@dataclass(frozen=True)
class BranchFlops:
    """Operations of one branch, forward and backward.

    Attributes:
        once: whatever the number of rows, if there is any.
        per_row: behind the frontier.
        per_raw_row: before it, steps apart.
        per_step: of a real step of a raw row.
    """

    once: float
    per_row: float
    per_raw_row: float
    per_step: float

    def __call__(self, media: BranchInput) -> float:
        """Return the operations of M rows."""
        raw = len(media.raw_rows) * self.per_raw_row + int(media.raw_mask.sum()) * self.per_step
        return raw + media.num_rows * self.per_row + (self.once if media.num_rows else 0.0)


@dataclass(frozen=True)
class FlopRate:
    """Operations of batches, and the peak they are compared with.

    Attributes:
        peak: operations per second of one GPU at best.
        branches: by name.
        per_position: of the decoder, B * L times, or once for each that is real.
        per_pair: of its attention, B * L * L times.
        per_target: of predicting a word, S times.
        skips_padding: whether the decoder computes real positions alone, but for attention.
    """

    peak: float
    branches: Mapping[str, BranchFlops]
    per_position: float
    per_pair: float
    per_target: float
    skips_padding: bool = False

    def flops(self, batch: Batch) -> float:
        """Return the operations of one batch, forward and backward."""
        rows, length = batch.input_ids.shape
        num_read = int(batch.attention_mask.sum()) if self.skips_padding else rows * length
        decoder = num_read * self.per_position + rows * length * length * self.per_pair
        branches = sum(self.branches[name](media) for name, media in batch.media.items())
        return decoder + batch.num_targets * self.per_target + branches


def measure_flop_rate(config: Config, *, device: str) -> FlopRate | None:
    """Measure what a run's batches cost, seconds at full size.

    Args:
        config: the typed run file.
        device: of this process.

    Returns:
        None where the peak is unknown, see `run.peak_tflops`, or a part cannot be counted.
    """
    peak = peak_flops(config.run, device=device)
    if peak is None:
        return None
    with torch.device("meta"):
        model = VideoLLM(config.model)
    try:
        return _measure(model, run=config.run, peak=peak)
    except Uncountable as error:
        get_logger().warning("the MFU will not be known: %s", error)
        return None


def peak_flops(run: RunConfig, *, device: str) -> float | None:
    """Return the peak of one GPU in the precision of a run, None if nobody knows."""
    if run.peak_tflops is not None:
        return run.peak_tflops * 1e12
    if not device.startswith("cuda"):
        return None
    gpu = recognise(torch.cuda.get_device_name(device))
    dtype = str(AUTOCAST_DTYPES.get(run.precision, torch.float32)).removeprefix("torch.")
    return None if gpu is None else gpu.peak_tflops(dtype) * 1e12


def _measure(model: VideoLLM, *, run: RunConfig, peak: float) -> FlopRate:
    """Measure the decoder at three sizes and every branch at some, which tells the rest."""
    meter = CostMeter(model, precision=run.precision)
    meter.recompute("nowhere")
    short, long, wordy = (
        meter.decoder(rows=1, length=length, targets=targets).total_flops
        for length, targets in ((SHORT, 1), (LONG, 1), (LONG, LONG))
    )
    per_target = (wordy - long) / (LONG - 1)
    short, long = short - per_target, long - per_target
    per_pair = (long / LONG - short / SHORT) / (LONG - SHORT)
    zero = zero_settings(run)
    is_divided = zero is not None and zero.stage == 3  # Then nothing skips padding.
    return FlopRate(
        peak=peak,
        branches={name: _measure_branch(meter, name) for name in model.branches},
        per_position=short / SHORT - SHORT * per_pair,
        per_pair=per_pair,
        per_target=per_target,
        skips_padding=getattr(model.decoder, "skips_padding", False) and not is_divided,
    )


def _measure_branch(meter: CostMeter, name: str) -> BranchFlops:
    most = meter.num_steps(name)
    one, two, all_steps = (
        meter.branch(name, raw=rows, steps=steps).total_flops
        for rows, steps in ((1, 1), (2, 1), (1, most))
    )
    per_row = 0.0
    if meter.has_frontier(name):
        cached, cached_twice = (
            meter.branch(name, raw=0, cached=rows).total_flops for rows in (1, 2)
        )
        per_row = cached_twice - cached
    per_step = (all_steps - one) / max(most - 1, 1)
    return BranchFlops(
        once=2 * one - two,
        per_row=per_row,
        per_raw_row=two - one - per_row - per_step,
        per_step=per_step,
    )
