"""Tokens of media land in their own slots, in order, whatever stands where."""

from __future__ import annotations

import pytest
import torch

from video_llama.common.types import Batch, BatchItem, Features
from video_llama.models.placing import place_tokens

WIDTH = 3


def features(*counts, num_steps=4, start=0.0):
    """Rows of so many valid tokens, one a step; token k of row r is (start + 10 r + k, ...)."""
    values = start + 10 * torch.arange(len(counts))[:, None] + torch.arange(num_steps)
    mask = torch.arange(num_steps) < torch.tensor(counts, dtype=torch.int64)[:, None]
    tokens = values[..., None, None].float().expand(-1, -1, 1, WIDTH).contiguous()
    return Features(tokens.requires_grad_(), mask[..., None])


def batch_of(slots, items):
    """Items are (branch, row, sample)."""
    slots = torch.tensor(slots, dtype=torch.int32)
    nothing = torch.zeros(slots.shape, dtype=torch.int64)
    counts = [int((slots == k + 1).sum()) for k in range(len(items))]
    return Batch(
        input_ids=nothing,
        attention_mask=nothing.bool(),
        labels=nothing,
        slots=slots,
        items=[
            BatchItem(branch, row, count, sample)
            for (branch, row, sample), count in zip(items, counts, strict=True)
        ],
        media={},
        keys=[f"s{i}" for i in range(len(slots))],
    )


def placed(slots, items, outputs):
    """What stands where afterwards; text is -1."""
    embeds = torch.full((len(slots), len(slots[0]), WIDTH), -1.0)
    return place_tokens(embeds, batch_of(slots, items), outputs)[..., 0].tolist()


def test_a_pictures_and_a_clips_tokens_go_where_the_text_has_them():
    # One branch takes a clip of three steps and a picture of one; sound stands between them.
    slots = [[0, 1, 1, 1, 0, 2, 2, 0], [3, 0, 0, 4, 4, 4, 4, 0]]
    items = [("video", 0, 0), ("audio", 0, 0), ("video", 1, 1), ("audio", 1, 1)]
    outputs = {"audio": features(2, 4, start=100), "video": features(3, 1)}
    assert placed(slots, items, outputs) == [
        [-1, 0, 1, 2, -1, 100, 101, -1],
        [10, -1, -1, 110, 111, 112, 113, -1],
    ]


def test_rows_in_another_order_than_the_text_keep_to_their_items():
    slots = [[1, 1, 0, 2, 3, 3]]
    items = [("video", 2, 0), ("video", 0, 0), ("video", 1, 0)]
    assert placed(slots, items, {"video": features(1, 2, 2)}) == [[20, 21, -1, 0, 10, 11]]


def test_tokens_that_are_masked_in_the_middle_are_left_out():
    output = features(4)
    output.mask[0, 1] = False
    assert placed([[1, 0, 1, 1]], [("video", 0, 0)], {"video": output}) == [[0, -1, 2, 3]]


def test_text_alone_stays_as_it_is_and_every_branch_keeps_its_gradient():
    embeds = torch.randn(1, 4, WIDTH)
    outputs = {"audio": features(), "video": features()}
    result = place_tokens(embeds, batch_of([[0, 0, 0, 0]], []), outputs)
    assert torch.equal(result, embeds)
    result.sum().backward()
    assert all(output.tokens.grad is not None for output in outputs.values())


def test_a_branch_without_rows_keeps_its_gradient_beside_one_with_rows():
    outputs = {"audio": features(), "video": features(2)}
    result = place_tokens(
        torch.zeros(1, 3, WIDTH), batch_of([[1, 1, 0]], [("video", 0, 0)]), outputs
    )
    result.sum().backward()
    assert outputs["audio"].tokens.grad is not None
    assert outputs["video"].tokens.grad[0, :, 0, 0].tolist() == [1, 1, 0, 0]


def test_tokens_take_the_precision_of_the_text():
    embeds = torch.zeros(1, 2, WIDTH, dtype=torch.bfloat16)
    result = place_tokens(embeds, batch_of([[1, 0]], [("v", 0, 0)]), {"v": features(1)})
    assert result.dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("slots", "items", "outputs", "text"),
    [
        ([[1, 0]], [("v", 0, 0)], {"v": (2,)}, "sample 's0': branch 'v' made 2 tokens .* 1 slots"),
        ([[1, 1]], [("v", 0, 0)], {"v": (1,)}, "made 1 tokens for an item that has 2 slots"),
        ([[1, 0]], [("v", 0, 0)], {"v": (1, 1)}, "branch 'v' has 2 rows"),
        ([[1, 2]], [("v", 0, 0), ("v", 0, 0)], {"v": (1,)}, r"stand in rows \[0, 0\]"),
        ([[1, 0]], [("a", 0, 0)], {"v": ()}, "nothing was run for branch 'a'"),
        ([[1, 2]], [("v", 0, 0)], {"v": (1,)}, "slots name item 2, the batch has 1"),
    ],
)
def test_what_does_not_agree_is_refused_before_anything_is_written(slots, items, outputs, text):
    outputs = {name: features(*counts) for name, counts in outputs.items()}
    with pytest.raises(ValueError, match=text):
        placed(slots, items, outputs)
