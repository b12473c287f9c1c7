"""Tables of time steps: for more steps than they have rows, and for models built with more rows.

Shapes: P rows of a table, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
    columns = table.float().t()[None]
    stretched = functional.interpolate(columns, size=num_steps, mode="linear", align_corners=True)
    return stretched[0].t().to(table.dtype)


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
