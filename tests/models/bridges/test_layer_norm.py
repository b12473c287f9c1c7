from __future__ import annotations

import pytest
import torch
from torch import nn

from video_llama.common.types import Features, Shape
from video_llama.models.bridges.layer_norm import LayerNorm
from video_llama.models.bridges.projection import Projection


def test_layer_norm_equals_torchs():
    stage = LayerNorm(LayerNorm.Config(eps=1e-3), Shape(2, 3, 8))
    twin = nn.LayerNorm(8, eps=1e-3)
    nn.init.normal_(stage.weight)
    nn.init.normal_(stage.bias)
    twin.load_state_dict(stage.state_dict())
    tokens = torch.randn(2, 2, 3, 8)
    mask = torch.ones(2, 2, 3, dtype=torch.bool)
    torch.testing.assert_close(stage(Features(tokens, mask)).tokens, twin(tokens))


def test_layer_norm_computes_in_float32_and_casts_back():
    stage = LayerNorm(LayerNorm.Config(), Shape(1, 1, 4))
    # In float16 the squares of these values would overflow.
    tokens = torch.tensor([[[[300.0, -300.0, 100.0, 500.0]]]], dtype=torch.float16)
    out = stage(Features(tokens, torch.ones(1, 1, 1, dtype=torch.bool))).tokens
    assert out.dtype is torch.float16
    torch.testing.assert_close(
        out.float(), nn.functional.layer_norm(tokens.float(), (4,)), atol=1e-3, rtol=1e-3
    )


def test_projection_maps_every_token_by_itself():
    stage = Projection(Projection.Config(width=5), Shape(2, 3, 8))
    tokens = torch.randn(2, 2, 3, 8)
    out = stage(Features(tokens, torch.ones(2, 2, 3, dtype=torch.bool))).tokens
    expected = stage.linear.weight @ tokens[1, 0, 2] + stage.linear.bias
    torch.testing.assert_close(out[1, 0, 2], expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda: LayerNorm.Config(eps=0), "positive"), (lambda: Projection.Config(0), "at least 1")],
)
def test_settings_that_cannot_be_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
