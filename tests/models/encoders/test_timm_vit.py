from __future__ import annotations

import pytest
import timm
import torch

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.weights import load_weights
from video_llama.models.encoders.timm_vit import TimmVit, as_tokens

NAMES = [
    ("test_vit", None),
    ("eva02_tiny_patch14_224", 56),
    ("test_resnet", None),
    ("test_convnext", None),
    ("test_efficientnet", None),
]
"""Two kinds of transformer, the second with rotary positions, and three convolutional networks."""


def whole(name, **keys):
    """timm's own model with its classifier and random weights."""
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=7, **keys).eval()


def loaded(twin, *, device="cpu", **keys) -> TimmVit:
    with torch.device(device):
        encoder = TimmVit(TimmVit.Config(**keys))
    load_weights(encoder, twin.state_dict(), key_map=encoder.key_map(), source="twin")
    return encoder.eval()


def encode(encoder, frames):
    with torch.no_grad():
        return encoder(frames[:, None], torch.ones(len(frames), 1, dtype=torch.bool))


@pytest.mark.parametrize(("name", "size"), NAMES)
def test_a_file_of_timm_gives_timms_own_patch_tokens(name, size):
    twin = whole(name, **({} if size is None else {"img_size": size}))
    encoder = loaded(twin, model=name, image_size=size, device="meta")
    side = encoder.config.media_spec().image_size
    frames = torch.randn(2, 3, side, side)
    with torch.no_grad():
        made = twin.forward_features(frames)
    expected = made[:, getattr(twin, "num_prefix_tokens", 0) :]
    if made.ndim == 4:
        expected = made.permute(0, 2, 3, 1).reshape(2, -1, made.shape[1])
    found = encode(encoder, frames)
    torch.testing.assert_close(found.tokens[:, 0], expected)
    rows, columns = found.grid
    assert rows * columns == expected.shape[1]


def test_tokens_before_the_patches_can_be_kept():
    twin = whole("test_vit")
    frames = torch.randn(1, 3, 160, 160)
    found = encode(loaded(twin, model="test_vit", drop_prefix=False), frames)
    assert found.num_prefix == 1
    with torch.no_grad():
        torch.testing.assert_close(found.tokens[:, 0], twin.forward_features(frames))


def test_channels_that_come_last_are_told_from_rows():
    rows = torch.arange(2 * 3 * 5 * 7).view(2, 3, 5, 7)
    last, first = as_tokens(rows, width=7), as_tokens(rows, width=3)
    assert torch.equal(last[1, 2 * 5 + 4], rows[1, 2, 4])
    assert torch.equal(first[1, 3 * 7 + 6], rows[1, :, 3, 6])


def test_frames_are_prepared_as_the_tag_says():
    # After timm's tables: EVA-02 has CLIP's mean; AugReg's ViTs have one half.
    clip = TimmVit.Config(model="eva02_tiny_patch14_224").media_spec()
    half = TimmVit.Config(model="vit_tiny_patch16_224.augreg_in21k", image_size=64).media_spec()
    assert (clip.mean, clip.image_size) == ((0.48145466, 0.4578275, 0.40821073), 224)
    assert (half.mean, half.image_size) == ((0.5, 0.5, 0.5), 64)


def test_another_size_resizes_positions_as_timm_does():
    twin = whole("test_vit")
    encoder = loaded(twin, model="test_vit", image_size=96)
    larger = whole("test_vit", img_size=96)
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = checkpoint_filter_fn(dict(twin.state_dict()), larger, interpolation="bicubic")
    larger.load_state_dict(state)
    frames = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected = larger.forward_features(frames)[:, 1:]
    # timm smooths where it shrinks; so far the two tables may differ.
    found = encode(encoder, frames).tokens[:, 0]
    assert (found - expected).norm() / expected.norm() < 0.05


def test_a_convolutional_network_takes_any_size():
    assert TimmVit.Config(model="test_resnet", image_size=96).out_shape(1).num_tokens == 9


def test_what_has_no_part_in_the_patch_tokens_is_not_kept():
    encoder = TimmVit(TimmVit.Config(model="test_vit2"))
    twin = whole("test_vit2")
    left = set(twin.state_dict()) - {n.removeprefix("trunk.") for n in encoder.state_dict()}
    assert left == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


def test_a_file_of_another_model_is_refused():
    with pytest.raises(CheckpointMismatch, match="does not fit"):
        loaded(whole("test_resnet"), model="test_vit")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model": "vit_tiny_patch16_223"}, "has no model.*did you mean 'vit_tiny_patch16_224'"),
        ({"model": "hf_hub:timm/test_vit"}, "nothing is fetched"),
        ({"model": "vit_base_patch16_224.mine"}, "has no weights 'mine'; known: .*augreg"),
        ({"model": "test_vit", "image_size": 161}, "cannot take frames of 161 pixels"),
        ({"model": "test_vit", "num_frames": 0}, "num_frames must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        TimmVit.Config(**keys)
