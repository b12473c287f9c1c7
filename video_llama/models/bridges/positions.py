"""Tables of time steps: for more steps than they have rows, and for models built with more rows.

Shapes: P rows of a table, D width; M rows of a batch, T steps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def stretch_positions(table: Tensor, num_steps: int) -> Tensor:
    """Spread a table of positions over more time steps, linearly along time.

    The first and the last step keep their rows, and no two steps share one (TimeChat, which trains
    on, repeats the nearest row, timechat/processors/video_processor.py). For rows a, b, c and 5
    steps: a, (a + b) / 2, b, (b + c) / 2, c.

    Args:
        table: float[P, D], P >= 2 where it is stretched.
        num_steps: at least P.

    Returns:
        float[num_steps, D]; the table itself if it has as many rows.
    """
    if num_steps == len(table):
        return table
    is_real = torch.ones(1, num_steps, dtype=torch.bool, device=table.device)
    return spread_positions(table, is_real)[0]


def spread_positions(table: Tensor, is_real: Tensor) -> Tensor:
    """Give each step of padded rows its position; how they were padded does not matter.

    A row with no more steps than the table has rows takes the first of them; a longer one has the
    table stretched up to its last real step, see `stretch_positions`.

    Args:
        table: float[P, D].
        is_real: bool[M, T], false at padding, which stands behind a row.

    Returns:
        float[M, T, D]; anything at padding.
    """
    last, counts = len(table) - 1, torch.arange(1, is_real.shape[1] + 1, device=table.device)
    lengths = (is_real * counts).amax(dim=1, keepdim=True)
    # In integers, so that first and last step have their rows to the bit.
    spans = (lengths - 1).clamp(min=max(last, 1))
    places = (counts - 1) * last
    below = (places // spans).clamp(max=last)
    share = ((places - below * spans) / spans)[..., None]
    rows = table.float()
    low, high = rows[below], rows[(below + 1).clamp(max=last)]
    return (low + share * (high - low)).to(table.dtype)


def extend_table(table: Tensor, shape: torch.Size) -> Tensor:
    """Stretch the table of a file to a longer one that a model was built with.

    Args:
        table: float[P, D], P >= 2.
        shape: wanted, [Q, D] with Q > P.

    Returns:
        float[Q, D]; the table itself where the two do not go together.
    """
    if table.ndim == 2 and 2 <= len(table) < shape[0] and table.shape[1] == shape[1]:
        return stretch_positions(table, shape[0])
    return table
