"""From logits to the next id of every row: greedy, or seeded nucleus sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from video_llama.common.generation import GenerationSettings


def sample_next(
    logits: Tensor,
    rows: Sequence[Sequence[int]],
    *,
    settings: GenerationSettings,
    generator: torch.Generator,
) -> list[int]:
    """Choose the next id of every row.

    Args:
        logits: float[B, V] of the last position.
        rows: ids generated so far, for the repetition penalty (CTRL, Keskar et al. 2019).
        settings: temperature 0 is greedy; otherwise top-p sampling (Holtzman et al. 2020).
        generator: on the CPU, so that a seed gives the same answer on every device.
    """
    scores = logits.detach().float().cpu()
    if settings.repetition_penalty != 1.0:
        scores = _penalise(scores, rows, penalty=settings.repetition_penalty)
    if settings.temperature == 0:
        return [int(index) for index in scores.argmax(dim=-1)]
    probabilities = (scores / settings.temperature).softmax(dim=-1)
    ordered, order = probabilities.sort(dim=-1, descending=True)
    # The token that crosses top_p stays in, so that at least one is left.
    outside = ordered.cumsum(dim=-1) - ordered >= settings.top_p
    drawn = torch.multinomial(ordered.masked_fill(outside, 0.0), 1, generator=generator)
    return [int(index) for index in order.gather(-1, drawn)[:, 0]]


def _penalise(scores: Tensor, rows: Sequence[Sequence[int]], *, penalty: float) -> Tensor:
    """Make ids that were generated before less likely."""
    scores = scores.clone()
    for score, ids in zip(scores, rows, strict=True):
        seen = torch.tensor(sorted(set(ids)), dtype=torch.int64)
        values = score[seen]
        score[seen] = torch.where(values > 0, values / penalty, values * penalty)
    return scores
