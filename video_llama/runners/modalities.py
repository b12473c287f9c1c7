"""What a step's losses are by modality: the kinds of media its samples hold, or text alone.

Ranks may hold different modalities, so the sums have a place for each and are added up as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from video_llama.common.types import MEDIA_KINDS, Batch, LossOutput

MODALITIES = tuple(
    "+".join(kind for place, kind in enumerate(MEDIA_KINDS) if number >> place & 1) or "text"
    for number in range(2 ** len(MEDIA_KINDS))
)
"""By the sum of 2 ** place over a sample's kinds: text, image, video, image+video, audio, ..."""


@dataclass(frozen=True)
class Loss:
    """Of some samples.

    Attributes:
        total: in nats, over supervised tokens.
        num_targets: supervised tokens.
    """

    total: float = 0.0
    num_targets: int = 0

    @property
    def mean(self) -> float:
        """In nats per supervised token."""
        return self.total / max(self.num_targets, 1)

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.total + other.total, self.num_targets + other.num_targets)


def sum_by_modality(
    batches: Sequence[Batch], outputs: Sequence[LossOutput], *, like: Tensor
) -> Tensor:
    """Add up losses and supervised tokens.

    Args:
        batches: of one rank.
        outputs: their losses, in the same order.
        like: gives dtype and device.

    Returns:
        float[2 * modalities]: losses, then tokens, by modality.
    """
    sums = like.new_zeros(2, len(MODALITIES))
    for batch, output in zip(batches, outputs, strict=True):
        index = torch.tensor(modality_of(batch), device=like.device)
        values = torch.stack([output.sample_loss.to(sums), output.sample_targets.to(sums)])
        sums.index_add_(1, index, values)
    return sums.flatten()


def modality_of(batch: Batch) -> list[int]:
    """Return the number in `MODALITIES` of each sample."""
    numbers = [0] * len(batch.keys)
    for item in batch.items:
        if item.kind is not None:
            numbers[item.sample] |= 1 << MEDIA_KINDS.index(item.kind)
    return numbers


def by_name(sums: Sequence[float]) -> Mapping[str, Loss]:
    """Turn what `sum_by_modality` gave, added over the ranks, into losses by modality."""
    num = len(MODALITIES)
    found = {name: Loss(sums[i], round(sums[num + i])) for i, name in enumerate(MODALITIES)}
    return {name: loss for name, loss in found.items() if loss.num_targets}
