"""What a step of training or scoring gives: the losses sample by sample, and fresh features.

Shapes: B samples, T time steps, N tokens a step, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from video_llama.common.types import Batch, LossOutput
from video_llama.models.branch import BranchOutput
from video_llama.models.decoders.base import TokenLosses


def sum_up(loss: TokenLosses, *, size: int, frontier: dict[str, Tensor]) -> LossOutput:
    """Sum the losses of `size` samples, one by one and all together."""
    device = loss.token_loss.device
    return LossOutput(
        loss_sum=loss.token_loss.sum(),
        num_targets=torch.tensor(loss.token_loss.numel(), device=device),
        sample_loss=torch.zeros(size, device=device).index_add_(
            0, loss.sample_index, loss.token_loss.detach()
        ),
        sample_targets=torch.bincount(loss.sample_index, minlength=size),
        frontier=frontier,
    )


def fresh_frontier(batch: Batch, outputs: Mapping[str, BranchOutput]) -> dict[str, Tensor]:
    """Collect the fresh frontier features of items that want to be cached, valid steps only."""
    found = {}
    for name, output in outputs.items():
        raw_rows = batch.media[name].raw_rows.tolist()
        place = {row: index for index, row in enumerate(raw_rows)}
        for item in batch.items:
            if item.branch == name and item.feature_key is not None and item.row in place:
                index = place[item.row]
                steps = output.frontier.mask[index].any(dim=-1)
                found[item.feature_key] = output.frontier.tokens[index][steps].detach()
    return found
