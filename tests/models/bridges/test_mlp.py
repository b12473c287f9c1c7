from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import VideoLlavaConfig
from transformers.models.video_llava.modeling_video_llava import VideoLlavaMultiModalProjector

from video_llama.common.types import Features, Shape
from video_llama.models.bridges.mlp import Mlp

IN_SHAPE = Shape(2, 3, 8)


def build(**keys):
    torch.manual_seed(0)
    return Mlp(Mlp.Config(**keys), IN_SHAPE)


def features(seed=1):
    tokens = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(seed))
    return Features(tokens, torch.ones(2, 2, 3, dtype=torch.bool), grid=(1, 3))


def test_two_maps_equal_the_projector_of_transformers():
    twin = VideoLlavaMultiModalProjector(
        VideoLlavaConfig(
            vision_config={
                "model_type": "clip_vision_model",
                "hidden_size": 8,
                "num_attention_heads": 2,
            },
            text_config={"model_type": "llama", "hidden_size": 12, "num_attention_heads": 2},
        )
    )
    stage = build(width=12)
    twin.linear_1.load_state_dict(stage.layers[0].state_dict())
    twin.linear_2.load_state_dict(stage.layers[2].state_dict())
    torch.testing.assert_close(
        stage(features()).tokens, twin(features().tokens), atol=1e-6, rtol=1e-6
    )


def test_the_names_are_those_of_a_published_mm_projector():
    names = [f"layers.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    assert list(build(width=12).state_dict()) == names


@pytest.mark.parametrize(
    ("keys", "shapes"),
    [
        ({"width": 12, "depth": 1}, [(12, 8)]),
        ({"width": 12}, [(12, 8), (12, 12)]),
        ({"width": 12, "depth": 3}, [(12, 8), (12, 12), (12, 12)]),
        ({"width": 12, "depth": 3, "hidden_width": 5}, [(5, 8), (5, 5), (12, 5)]),
    ],
)
def test_depth_counts_the_linear_maps(keys, shapes):
    maps = [layer for layer in build(**keys).layers if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in maps] == shapes


@pytest.mark.parametrize(
    ("activation", "function"),
    [("gelu", nn.functional.gelu), ("relu", torch.relu), ("silu", nn.functional.silu)],
)
def test_the_activation_stands_between_the_maps_and_nowhere_else(activation, function):
    stage, given = build(width=12, activation=activation), features()
    first, last = stage.layers[0], stage.layers[2]
    expected = last(function(first(given.tokens)))
    torch.testing.assert_close(stage(given).tokens, expected, atol=0, rtol=0)


def test_patches_keep_their_places():
    assert build(width=12)(features()).grid == (1, 3)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"width": 0}, "at least 1"),
        ({"width": 4, "depth": 0}, "at least 1"),
        ({"width": 4, "hidden_width": 0}, "at least 1"),
        ({"width": 4, "depth": 1, "hidden_width": 3}, "nothing between its maps"),
    ],
)
def test_settings_that_cannot_be_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        Mlp.Config(**keys)
