"""Captions and instructions: minimise the loss of the supervised tokens.

The name is LAVIS's. Stage 1 and stage 2 are the same task; they differ in their data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from video_llama.common import dist
from video_llama.common.registry import registry
from video_llama.common.types import Batch, LossOutput
from video_llama.tasks.base import Direction, Model


@registry.register_task("video_text_pretrain")
class VideoTextPretrain:
    """Trains on the loss of captions and answers, and validates on it."""

    def train_step(self, model: Model, batch: Batch) -> LossOutput:
        """Compute the loss of one batch, see `Task.train_step`."""
        return model(batch)

    @torch.no_grad()
    def evaluate(self, model: Model, batches: Iterable[Batch]) -> dict[str, float]:
        """Measure the mean loss per supervised token.

        Args:
            model: in evaluation mode.
            batches: this rank's share of the validation set; a rank may have none.

        Returns:
            `valid_loss` over all tokens of all ranks, and `valid_loss/<data set>` for each data
            set if there are several. NaN if nothing was supervised at all.
        """
        totals: dict[str, tuple[float, int]] = {}
        for batch in batches:
            output = model(batch)
            loss_sum, num_targets = totals.get(batch.dataset, (0.0, 0))
            totals[batch.dataset] = (
                loss_sum + float(output.sample_loss.double().sum()),
                num_targets + int(output.sample_targets.sum()),
            )
        return _means(dist.gather_objects(totals))

    def metrics(self, datasets: Sequence[str]) -> dict[str, Direction]:
        """Say what is measured, see `Task.metrics`."""
        names = [f"valid_loss/{name}" for name in datasets] if len(datasets) > 1 else []
        return dict.fromkeys(["valid_loss", *names], "lower")


def _means(shares: Sequence[Mapping[str, tuple[float, int]]]) -> dict[str, float]:
    """Turn the sums and counts of every rank into means."""
    names = sorted({name for share in shares for name in share})
    by_name = {name: [share[name] for share in shares if name in share] for name in names}
    metrics = {"valid_loss": _mean([pair for pairs in by_name.values() for pair in pairs])}
    if len(names) > 1:
        metrics |= {f"valid_loss/{name}": _mean(pairs) for name, pairs in by_name.items()}
    return metrics


def _mean(pairs: Sequence[tuple[float, int]]) -> float:
    """Divide summed loss by summed targets, NaN for nothing."""
    num_targets = sum(count for _, count in pairs)
    return sum(loss for loss, _ in pairs) / num_targets if num_targets else math.nan
