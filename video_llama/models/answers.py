"""Answers to prompts: one behind what a cache holds, or many side by side in a padded batch.

Both are the same to the token in float32. Text is neither encoded nor decoded here.

Shapes: B prompts, P positions read before, L to read, H decoder width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, DynamicLayer

from video_llama.common.generation import GenerationSettings, Prompt
from video_llama.models.beams import search_beams
from video_llama.models.decoders.base import Decoder
from video_llama.models.generation import StopRule, stream_ids
from video_llama.models.prompt_cache import (
    PromptCache,
    common_prefix,
    embed_prompt,
    places_of,
)

WORTH_SHARING = 32
"""Positions; to read fewer by themselves would take longer than to read them in every row."""


def stream_answer(
    prompt: Prompt,
    *,
    cache: PromptCache,
    settings: GenerationSettings,
    stop: StopRule | None = None,
) -> Iterator[int]:
    """Yield the ids of one answer as they are chosen; those of beams come when the search is over.

    However it ends - by itself, closed by its caller, by an error of a stop rule - the cache holds
    exactly what was read: the prompt and all ids but the last, for beams the prompt. It is left
    empty if the decoder itself fails.

    Args:
        prompt: with nothing of the answer in it.
        cache: what was read before, for any prompt.
        settings: how ids are chosen.
        stop: called with row 0 and its ids after each token.

    Raises:
        RuntimeError: the cache was given another prompt before this answer was over.
    """
    decoder = cache.decoder
    limit = most_new_ids(decoder, length=len(prompt.input_ids), settings=settings)
    if limit < 1:
        return
    logits = cache.read_prompt(prompt)
    if settings.num_beams > 1:
        yield from search_beams(
            decoder, logits=logits, cache=cache.lend(), limit=limit, settings=settings, stop=stop
        )
        return
    turn = cache.num_prompts

    def read(ids: list[int]) -> Tensor:
        if cache.num_prompts != turn:
            raise RuntimeError("the cache was given another prompt before this answer was over")
        return cache.read_ids(ids)

    for ids in stream_ids(
        logits,
        read=read,
        limits=[limit],
        settings=settings,
        end_ids=decoder.end_ids,
        silent_ids=decoder.silent_ids,
        stop=stop,
    ):
        if ids[0] is not None:
            yield ids[0]


@torch.no_grad()
def answer_prompts(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    *,
    settings: GenerationSettings,
    stop: StopRule | None = None,
) -> list[list[int]]:
    """Answer prompts of any lengths, padded on the left; beams one prompt after the other.

    What all of them begin with alike, say the same clip or conversation, is read once.

    Args:
        decoder: in eval mode.
        prompts: independent of each other; each draws with the seed as if it were alone.
        settings: how ids are chosen.
        stop: called with the number of a prompt and the ids of its answer after each token.

    Returns:
        The new ids of each prompt, its stop tokens included.
    """
    if settings.num_beams > 1:
        cache = PromptCache(decoder)
        return [
            list(stream_answer(prompt, cache=cache, settings=settings, stop=_for_row(index, stop)))
            for index, prompt in enumerate(prompts)
        ]
    if not prompts:
        return []
    states, num_shared = decoder.new_cache(), shared_positions(prompts)
    if not tolerates_gaps(states):
        num_shared = 0
    if num_shared:
        beginning = embed_prompt(decoder, prompts[0])[:, :num_shared]
        decoder.step(beginning, attention_mask=None, cache=states)
        states.reorder_cache(torch.zeros(len(prompts), dtype=torch.int64))  # type: ignore[arg-type]
    rows = [embed_prompt(decoder, prompt, start=num_shared)[0] for prompt in prompts]
    is_real = [torch.ones(len(row), dtype=torch.bool, device=row.device) for row in rows]
    mask = pad_sequence(is_real, batch_first=True, padding_side="left")
    return answer_rows(
        decoder,
        pad_sequence(rows, batch_first=True, padding_side="left"),
        attention_mask=torch.cat([mask.new_ones(len(rows), num_shared), mask], dim=1),
        settings=settings,
        stop=stop,
        cache=states,
    )


@torch.no_grad()
def answer_rows(
    decoder: Decoder,
    embeds: Tensor,
    *,
    attention_mask: Tensor,
    settings: GenerationSettings,
    stop: StopRule | None = None,
    cache: Cache | None = None,
) -> list[list[int]]:
    """Answer embedded prompts, greedy or sampled.

    Args:
        decoder: in eval mode.
        embeds: float[B, L, H], padded on the left.
        attention_mask: bool[B, P + L], false on padding.
        settings: how ids are chosen.
        stop: called with a row and its ids after each token.
        cache: holds the first P positions of every row; by default nothing was read.

    Returns:
        The new ids of each row; none where the decoder's context has no room for any.
    """
    answers: list[list[int]] = [[] for _ in embeds]
    lengths = attention_mask.sum(dim=1).tolist()
    limits = [most_new_ids(decoder, length=length, settings=settings) for length in lengths]
    fits = [row for row, limit in enumerate(limits) if limit > 0]
    if not fits:
        return answers
    mask = attention_mask[fits]
    # Without padding the decoder need not look at a mask at every step.
    padding = None if bool(mask.all()) else mask
    states = decoder.new_cache() if cache is None else cache
    if cache is not None and len(fits) < len(answers):
        states.reorder_cache(torch.tensor(fits))  # type: ignore[arg-type]

    def read(ids: list[int]) -> Tensor:
        nonlocal padding
        if padding is not None:
            padding = torch.cat([padding, padding.new_ones(len(ids), 1)], dim=1)
        words = decoder.embed(torch.tensor(ids)[:, None])
        return decoder.step(words, attention_mask=padding, cache=states)

    for new in stream_ids(
        decoder.step(embeds[fits], attention_mask=padding, cache=states),
        read=read,
        limits=[limits[row] for row in fits],
        settings=settings,
        end_ids=decoder.end_ids,
        silent_ids=decoder.silent_ids,
        stop=None if stop is None else lambda index, ids: stop(fits[index], ids),
    ):
        for row, token in zip(fits, new, strict=True):
            if token is not None:
                answers[row].append(token)
    return answers


def shared_positions(prompts: Sequence[Prompt]) -> int:
    """Return how many positions to read once for all prompts; the last of each is left to it."""
    first, *others = [places_of(prompt)[:-1] for prompt in prompts]
    num_shared = min((common_prefix(first, other) for other in others), default=0)
    return num_shared if num_shared >= WORTH_SHARING else 0


def tolerates_gaps(states: Cache) -> bool:
    """Tell whether padding behind a shared beginning changes nothing.

    It would count in a sliding window, and move a running state.
    """
    return all(type(layer) is DynamicLayer for layer in states.layers)


def most_new_ids(decoder: Decoder, *, length: int, settings: GenerationSettings) -> int:
    """Return how long the answer to a prompt of `length` positions can be, 0 without room."""
    return max(min(settings.max_new_tokens, decoder.max_context - length), 0)


def _for_row(index: int, stop: StopRule | None) -> StopRule | None:
    """Return a rule that knows its row as `index`."""
    return None if stop is None else lambda _, ids: stop(index, ids)
