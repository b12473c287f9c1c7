"""Decoders that compute no padding while they learn.

Most of a batch of unequal samples is linear layers over positions nobody asks for. Here the layers
are given the real positions alone, one behind the other in a single row; only attention, which has
to know what belongs together, puts them side by side for a moment. They begin at the left there, so
that causality alone hides the padding and no mask slows the kernel down. The idea is that of
FlashAttention's kernels for sequences of unequal lengths (Dao 2023), for any device.

Shapes: B rows, L positions, T real positions of all rows, A heads, W width of a head, H width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "sdpa_unpadded"
"""What transformers is told this attention is called."""

ARCHITECTURES = frozenset({"gemma", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"})
"""Values of `model_type` whose positions meet in attention alone and are counted by
`position_ids`; a test compares each with the same decoder on a padded batch."""


class Places(NamedTuple):
    """Where attention puts the real positions of a batch.

    Attributes:
        side_by_side: int64[B * L], of every place of the rows side by side the number of the real
            position there; of any where there is none.
        back: int64[T], the place of each among those.
        num_rows: B.
    """

    side_by_side: Tensor
    back: Tensor
    num_rows: int


@dataclass(frozen=True)
class RealPositions:
    """The positions of a batch that are no padding, row after row.

    Attributes:
        source: int64[T], of each its index among all of the batch.
        columns: int64[T], of each its index in its row, counted over real positions.
        last_real: int64[B, L], of every position of the batch the number of the last real one up
            to it in its row; without a meaning where there is none.
        places: for attention.
    """

    source: Tensor
    columns: Tensor
    last_real: Tensor
    places: Places

    def arguments(self) -> dict[str, Any]:
        """Return what a decoder of transformers is called with, beside float[1, T, H]."""
        # It looks made already, or transformers would make one of T x T; and it fits nothing, so
        # that an attention which knows no places fails, in place of mixing samples.
        mask = torch.ones(1, 1, 0, 0, dtype=torch.bool, device=self.source.device)
        positions = self.columns[None]
        return {
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": False,
            "places": self.places,
        }


def find_real(mask: Tensor) -> RealPositions:
    """Find the real positions of bool[B, L], wherever the padding is."""
    assert mask.dtype is torch.bool, f"a mask of {mask.dtype}"
    source = mask.flatten().nonzero()[:, 0]
    lengths_B = mask.sum(dim=1)
    starts_B = lengths_B.cumsum(dim=0) - lengths_B
    columns_BL = mask.cumsum(dim=1) - 1
    columns = columns_BL.flatten()[source]
    beside = torch.arange(int(lengths_B.max()), device=mask.device)
    # Behind the end of a row any position will do: nothing real is behind it that could see it.
    side_by_side = (starts_B[:, None] + beside).clamp(max=len(source) - 1)
    back = source // mask.shape[1] * len(beside) + columns
    return RealPositions(
        source=source,
        columns=columns,
        last_real=starts_B[:, None] + columns_BL,
        places=Places(side_by_side.flatten(), back, num_rows=len(mask)),
    )


def skip_padding(model: PreTrainedModel) -> bool:
    """Let a model take `places`, if it is known to be able to; else leave it as it is.

    Returns:
        Whether it takes them.
    """
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if (
        config.model_type not in ARCHITECTURES
        or config._attn_implementation != "sdpa"
        or kinds != {"full_attention"}
        or getattr(config, "sliding_window", None) is not None
        or not getattr(config, "is_causal", True)
    ):
        return False
    model.set_attn_implementation(IMPLEMENTATION)
    return bool(config._attn_implementation == IMPLEMENTATION)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    places: Places | None = None,
    **settings: Any,  # noqa: ANN401 - what transformers hands on to every attention
) -> tuple[Tensor, None]:
    """Attend as transformers does; with places, row by row of what lies in a single one.

    Args:
        module: the layer.
        query: float[1, A, T, W]; float[B, A, L, W] without places.
        key: likewise, perhaps of fewer heads.
        value: likewise.
        attention_mask: not read with places.
        places: of the real positions; None for an ordinary batch.
        settings: scale, dropout and what else there is.

    Returns:
        float[1, T, A, W]; float[B, L, A, W] without places.
    """
    if places is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    query, key, value = (_pad(heads, places) for heads in (query, key, value))
    attended_BLAW, _ = sdpa_attention_forward(module, query, key, value, None, **settings)
    return attended_BLAW.flatten(0, 1).index_select(0, places.back)[None], None


def _pad(heads_1ATW: Tensor, places: Places) -> Tensor:
    """Put rows side by side: float[1, A, T, W] to float[B, A, L, W]."""
    heads_TAW = heads_1ATW[0].transpose(0, 1)
    heads_BLAW = (
        heads_TAW.flatten(1)
        .index_select(0, places.side_by_side)
        .view(places.num_rows, -1, *heads_TAW.shape[1:])
    )
    return heads_BLAW.transpose(1, 2)


AttentionInterface.register(IMPLEMENTATION, _attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
