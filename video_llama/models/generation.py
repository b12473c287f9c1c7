"""From prompts to answers: the decoding loop, greedy or seeded nucleus sampling.

Stopping on text is the caller's business; here a row ends with the decoder's end token, with a
rule on its ids, or with the context.

Shapes: B batch, L prompt, H decoder width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from video_llama.common.generation import GenerationSettings
from video_llama.models.decoders.base import Decoder

StopRule = Callable[[int, Sequence[int]], bool]
"""Tells by row index and the ids generated so far whether a row is finished."""


@torch.no_grad()
def stream_ids(
    decoder: Decoder,
    embeds: Tensor,
    *,
    attention_mask: Tensor,
    settings: GenerationSettings,
    stop: StopRule | None = None,
) -> Iterator[list[int | None]]:
    """Yield one new id per row at a time, None for rows that are finished.

    Args:
        decoder: in eval mode.
        embeds: float[B, L, H], prompts padded on the left.
        attention_mask: bool[B, L], false on padding.
        settings: length, temperature, seed.
        stop: called with a row and its ids after each token.
    """
    rows: list[list[int]] = [[] for _ in embeds]
    done = [False] * len(rows)
    cache = decoder.new_cache()
    generator = torch.Generator(device="cpu").manual_seed(settings.seed)
    room = max(decoder.max_context - embeds.shape[1], 0)
    for _ in range(min(settings.max_new_tokens, room)):
        logits = decoder.step(embeds, attention_mask=attention_mask, cache=cache)
        scores = adjust_scores(logits, rows, settings=settings, end_ids=decoder.end_ids)
        ids = sample_next(scores, settings=settings, generator=generator)
        new = [None if done[index] else token for index, token in enumerate(ids)]
        for index, token in enumerate(new):
            if token is not None:
                rows[index].append(token)
                done[index] = token in decoder.end_ids or bool(stop and stop(index, rows[index]))
        yield new
        if all(done):
            return
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(rows), 1)], dim=1)
        embeds = decoder.embed(torch.as_tensor(ids, device=embeds.device)[:, None])


def adjust_scores(
    logits: Tensor,
    rows: Sequence[Sequence[int]],
    *,
    settings: GenerationSettings,
    end_ids: Collection[int],
) -> Tensor:
    """Make ids said before less likely (CTRL, Keskar et al. 2019), and an early end impossible.

    Args:
        logits: float[B, V] of the last position, or log-probabilities.
        rows: ids generated so far.
        settings: penalty and shortest answer.
        end_ids: ids that end an answer.

    Returns:
        float32[B, V] on the CPU; the argument is not changed.
    """
    scores = logits.detach().float().cpu()
    if settings.repetition_penalty != 1.0:
        scores = _penalise(scores, rows, penalty=settings.repetition_penalty)
    # Rows that go on are the longest.
    if max(map(len, rows)) < settings.min_new_tokens:
        scores = scores.index_fill(1, torch.tensor(sorted(end_ids), dtype=torch.int64), -torch.inf)
    return scores


def sample_next(
    scores: Tensor, *, settings: GenerationSettings, generator: torch.Generator
) -> list[int]:
    """Choose the next id of every row.

    Args:
        scores: float32[B, V], as `adjust_scores` gave them.
        settings: temperature 0 is greedy; otherwise top-p sampling (Holtzman et al. 2020).
        generator: on the CPU, so that a seed gives the same answer on every device.
    """
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
