"""The decoding loop: from logits to ids, greedy or by seeded nucleus sampling.

What reads the ids is handed in, so that one loop serves a conversation and a padded batch. Every
row is on its own: what it says depends on no neighbour. Stopping on text is the caller's business.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from video_llama.common.generation import GenerationSettings

StopRule = Callable[[int, Sequence[int]], bool]
"""Tells by row index and the ids generated so far whether a row is finished."""


def stream_ids(
    logits: Tensor,
    *,
    read: Callable[[list[int]], Tensor],
    limits: Sequence[int],
    settings: GenerationSettings,
    end_ids: Collection[int],
    silent_ids: frozenset[int] = frozenset(),
    stop: StopRule | None = None,
) -> Iterator[list[int | None]]:
    """Yield one new id per row at a time, None for rows that are finished.

    An id is yielded before it is read, and the last one of all is never read.

    Args:
        logits: float[B, V], behind the prompts.
        read: reads one id per row and returns the next logits; those of finished rows are ignored.
        limits: most ids of each row, at least one.
        settings: temperature, penalties, seed; every row draws as if it were alone.
        end_ids: ids that end an answer.
        silent_ids: ids that are never chosen.
        stop: called with a row and its ids after each token.
    """
    assert min(limits) > 0, "a row without room for an id"
    rows: list[list[int]] = [[] for _ in limits]
    done = [False] * len(rows)
    generators = [torch.Generator().manual_seed(settings.seed) for _ in rows]
    while True:
        scores = adjust_scores(
            logits, rows, settings=settings, end_ids=end_ids, silent_ids=silent_ids
        )
        ids = sample_next(scores, settings=settings, generators=generators)
        new = [None if over else token for over, token in zip(done, ids, strict=True)]
        for index, token in enumerate(new):
            if token is not None:
                row = rows[index]
                row.append(token)
                done[index] = (
                    token in end_ids or bool(stop and stop(index, row)) or len(row) == limits[index]
                )
        yield new
        if all(done):
            return
        logits = read(ids)


def adjust_scores(
    logits: Tensor,
    rows: Sequence[Sequence[int]],
    *,
    settings: GenerationSettings,
    end_ids: Collection[int],
    silent_ids: frozenset[int] = frozenset(),
) -> Tensor:
    """Make ids said before less likely (CTRL, Keskar et al. 2019).

    What must not be said becomes impossible: silent ids, and an end before the shortest answer.

    Args:
        logits: float[B, V] of the last position, or log-probabilities.
        rows: ids generated so far.
        settings: penalty and shortest answer.
        end_ids: ids that end an answer.
        silent_ids: ids that are never chosen.

    Returns:
        float32[B, V] where the logits are; the argument is not changed.
    """
    scores = logits.detach().float()
    if silent_ids:
        scores = scores.index_fill(1, _index_of(silent_ids, scores.device), -torch.inf)
    if settings.repetition_penalty != 1.0:
        scores = _penalise(scores, rows, penalty=settings.repetition_penalty)
    # Rows that go on are the longest.
    if max(map(len, rows)) < settings.min_new_tokens:
        ends = _index_of(frozenset(end_ids), scores.device)
        scores = scores.index_fill(1, ends, -torch.inf)
    return scores


def sample_next(
    scores: Tensor, *, settings: GenerationSettings, generators: Sequence[torch.Generator]
) -> list[int]:
    """Choose the next id of every row.

    Args:
        scores: float32[B, V], as `adjust_scores` gave them.
        settings: temperature 0 is greedy; otherwise top-p sampling (Holtzman et al. 2020).
        generators: one a row, on the CPU, so that a seed draws the same on every device.
    """
    if settings.temperature == 0:
        chosen = scores.argmax(dim=-1)
    else:
        # Below the highest score, so that no temperature makes a score infinite.
        # The smallest float32 in place of what would be 0 there.
        smallest = torch.finfo(torch.float32).tiny
        temperature, top_p = (max(v, smallest) for v in (settings.temperature, settings.top_p))
        scores = (scores - scores.amax(dim=-1, keepdim=True)) / temperature
        ordered, order = scores.softmax(dim=-1).sort(dim=-1, descending=True)
        # The token that crosses top_p stays in, so that at least one is left.
        inside = (ordered.cumsum(dim=-1) - ordered < top_p) & (ordered > 0)
        upto = ordered.masked_fill(~inside, 0.0).cumsum(dim=-1)
        draws = torch.stack([torch.rand(1, generator=generator) for generator in generators])
        place = (upto <= draws.to(upto.device) * upto[:, -1:]).sum(dim=-1, keepdim=True)
        # Sums on a GPU do not grow to the last bit, and a draw of almost one might lie past all.
        place = place.minimum(inside.sum(dim=-1, keepdim=True) - 1)
        chosen = order.gather(-1, place)[:, 0]
    ids: list[int] = chosen.tolist()
    return ids


@lru_cache(maxsize=8)
def _index_of(ids: frozenset[int], device: torch.device) -> Tensor:
    """Return ids as an index, made once for an answer of many tokens."""
    return torch.tensor(sorted(ids), dtype=torch.int64, device=device)


def _penalise(scores: Tensor, rows: Sequence[Sequence[int]], *, penalty: float) -> Tensor:
    """Make ids that were generated before less likely."""
    scores = scores.clone()
    for score, ids in zip(scores, rows, strict=True):
        seen = torch.tensor(sorted(set(ids)), dtype=torch.int64, device=score.device)
        values = score[seen]
        score[seen] = torch.where(values > 0, values / penalty, values * penalty)
    return scores
