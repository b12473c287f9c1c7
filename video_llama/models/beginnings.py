"""Reads what the rows of a batch go on from, and keeps the keys and values for all of them.

Shapes: B batch, P positions read before, L text, H decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from video_llama.common.errors import ContextOverflow
from video_llama.common.types import Batch
from video_llama.models.decoders.base import Decoder


def read_beginnings(
    decoder: Decoder, batch: Batch, *, embed: Callable[[Batch], Tensor]
) -> tuple[Cache, Tensor]:
    """Read every beginning once, those of beginnings first.

    Args:
        decoder: in eval mode; it must tolerate gaps if beginnings or what follows are padded.
        batch: perhaps with `beginnings`; its own L positions are not read.
        embed: gives float[B, L, H] of a batch of beginnings, on the decoder's device.

    Returns:
        What was read, row by row of the batch; and its mask bool[B, P + L], on the device of the
        batch's own where nothing was read.

    Raises:
        ContextOverflow: a row with its beginning is longer than the decoder's context.
    """
    if batch.beginnings is None:
        return decoder.new_cache(), batch.attention_mask
    first = batch.beginnings.batch
    cache, before = read_beginnings(decoder, first, embed=embed)
    embeds = embed(first)
    before, index = before.to(embeds.device), torch.as_tensor(batch.beginnings.rows)
    index = index.to(embeds.device)
    mask = torch.cat([before[index], batch.attention_mask.to(embeds.device)], dim=1)
    check_length(decoder, int(mask.sum(dim=1).max()), keys=batch.keys)
    decoder.step(embeds, attention_mask=before, cache=cache)
    cache.reorder_cache(index)  # type: ignore[arg-type]
    return cache, mask


def check_length(decoder: Decoder, length: int, *, keys: Sequence[str]) -> None:
    """Refuse what the decoder's context does not hold.

    Raises:
        ContextOverflow: with the keys of the samples.
    """
    if length > decoder.max_context:
        raise ContextOverflow(
            f"{', '.join(keys)}: {length} positions, the decoder's context holds "
            f"{decoder.max_context}; use fewer frames or shorten the text"
        )
