"""Writes the tokens of media into the places a batch keeps for them.

Items are told apart by their number in `Batch.slots`, so they may stand anywhere and in any order;
a branch gives its tokens row by row. Counts are compared before anything is written.

Shapes: B batch, L text, K media tokens of a batch, M rows, T time steps, N tokens a step, H width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from video_llama.common.types import Batch, Features


def place_tokens(embeds: Tensor, batch: Batch, outputs: Mapping[str, Features]) -> Tensor:
    """Return the embeddings with every item's valid tokens in its slots.

    A branch without rows takes part with no token: DDP and ZeRO-3 wait for its gradients.

    Args:
        embeds: float[B, L, H], the embedded text.
        batch: with slots and items.
        outputs: float[M, T, N, H] of every branch of the step's plan.

    Returns:
        float[B, L, H].

    Raises:
        ValueError: the slots of an item and its tokens differ in number, the items of a branch are
            not its rows, one each, or an item's branch was not run.
    """
    astray = {item.branch for item in batch.items} - set(outputs)
    if astray:
        raise ValueError(f"{', '.join(batch.keys)}: nothing was run for branch {astray.pop()!r}")
    if not outputs:
        return embeds
    by_item = _positions_by_item(batch)
    positions, tokens = [], []
    for name, features in outputs.items():
        # One wait for the device per branch: the mask is needed here to compare counts.
        is_valid = features.mask.flatten(1).cpu()
        items = _items_by_row(batch, name, num_rows=len(is_valid))
        for row, num_tokens in enumerate(is_valid.sum(dim=1).tolist()):
            places = by_item[items[row]]
            if len(places) != num_tokens:
                sample = batch.keys[batch.items[items[row]].sample]
                raise ValueError(
                    f"sample '{sample}': branch '{name}' made {num_tokens} tokens for an item that "
                    f"has {len(places)} slots"
                )
            positions.append(places)
        chosen = is_valid.flatten().nonzero()[:, 0].to(features.tokens.device)
        tokens.append(features.tokens.flatten(0, 2).index_select(0, chosen).to(embeds.dtype))
    index = torch.cat(positions) if positions else torch.zeros(0, dtype=torch.int64)
    # Autocast to another half precision refuses to touch these, and here nothing is computed.
    with torch.autocast(embeds.device.type, enabled=False):
        flat = embeds.flatten(0, 1).index_copy(0, index.to(embeds.device), torch.cat(tokens))
    return flat.view_as(embeds)


def _positions_by_item(batch: Batch) -> list[Tensor]:
    """Return int64[slots] per item: its places in the flattened batch, in reading order."""
    slots = batch.slots.cpu().flatten()
    counts = torch.bincount(slots, minlength=len(batch.items) + 1).tolist()
    if len(counts) > len(batch.items) + 1:
        raise ValueError(f"slots name item {len(counts) - 1}, the batch has {len(batch.items)}")
    return list(slots.argsort(stable=True).split(counts)[1:])


def _items_by_row(batch: Batch, branch: str, *, num_rows: int) -> list[int]:
    """Return the index of the item that stands in each row of a branch."""
    items = sorted(
        (item.row, index) for index, item in enumerate(batch.items) if item.branch == branch
    )
    if [row for row, _ in items] != list(range(num_rows)):
        raise ValueError(
            f"branch '{branch}' has {num_rows} rows, the items of {', '.join(batch.keys)} stand in "
            f"rows {[row for row, _ in items]}"
        )
    return [index for _, index in items]
