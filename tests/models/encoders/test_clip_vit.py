from __future__ import annotations

import pytest
import torch
from models.encoders.made_vit import SIZES, clip_twin, hidden_states, randomised
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.weights import export_weights, load_weights
from video_llama.models.encoders import clip_vit
from video_llama.models.encoders.clip_vit import ClipVit

EXACT = {"atol": 1e-5, "rtol": 1e-5}


def loaded(state, **sizes) -> ClipVit:
    encoder = ClipVit(ClipVit.Config(**{**SIZES, "image_size": 12, **sizes}))
    load_weights(encoder, state, key_map=encoder.key_map(), source="twin")
    return encoder.eval()


def encode(encoder, frames):
    with torch.no_grad():
        return encoder(frames[:, None], torch.ones(len(frames), 1, dtype=torch.bool)).tokens[:, 0]


def siglip_twin() -> SiglipVisionModel:
    config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=14,
        patch_size=4,
    )
    return randomised(SiglipVisionModel(config))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("layer", [-1, -2, -3, 1, 2, 3])
def test_any_layer_of_clip_agrees_with_transformers(activation, layer):
    twin = clip_twin(activation=activation)
    frames = torch.randn(2, 3, 12, 12)
    expected = hidden_states(twin, frames)[layer]
    ours = loaded(twin.state_dict(), activation=activation, select_layer=layer)
    torch.testing.assert_close(encode(ours, frames), expected[:, 1:], **EXACT)
    whole = loaded(
        twin.state_dict(), activation=activation, select_layer=layer, drop_class_token=False
    )
    torch.testing.assert_close(encode(whole, frames), expected, **EXACT)


@pytest.mark.parametrize("layer", [-1, -2])
def test_siglip_agrees_with_transformers_and_ignores_the_rest_of_a_frame(layer):
    twin = siglip_twin()
    frames = torch.randn(2, 3, 14, 14)
    expected = hidden_states(twin, frames)[layer]
    assert expected.shape[1] == 9
    ours = loaded(twin.state_dict(), family="siglip", image_size=14, select_layer=layer)
    torch.testing.assert_close(encode(ours, frames), expected, **EXACT)


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_names_are_read_with_and_without_the_prefix(prefix):
    twin = clip_twin()
    bare = {name.removeprefix("vision_model."): t for name, t in twin.state_dict().items()}
    ours = loaded({prefix + name: tensor for name, tensor in bare.items()})
    frames = torch.randn(1, 3, 12, 12)
    torch.testing.assert_close(encode(ours, frames), hidden_states(twin, frames)[-2][:, 1:])


def test_the_file_of_a_whole_clip_loads_and_what_is_left_out_is_counted_by_reason():
    twin = clip_twin()
    state = {f"vision_model.{name}": tensor for name, tensor in twin.state_dict().items()}
    state |= {
        "vision_model.embeddings.position_ids": torch.zeros(1, 10),
        "text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2, 2),
        "text_projection.weight": torch.zeros(2, 2),
        "visual_projection.weight": torch.zeros(2, 2),
        "logit_scale": torch.zeros(()),
    }
    encoder = ClipVit(ClipVit.Config(**SIZES, image_size=12))
    report = load_weights(encoder, state, key_map=encoder.key_map(), source="x")
    assert report.dropped["behind the layer in use"] == 16
    assert sum(report.dropped.values()) == 16 + 2 + 5
    assert report.matched == len(state) - 23


def test_layers_behind_the_one_in_use_are_never_built():
    encoder = ClipVit(ClipVit.Config(**SIZES, image_size=12, select_layer=-2))
    assert len(encoder.repeated_layers()) == 2
    assert not [name for name in encoder.state_dict() if "layers.2" in name or "post" in name]


def test_a_file_with_more_layers_than_stated_is_refused():
    with pytest.raises(CheckpointMismatch, match=r"encoder\.layers\.2"):
        loaded(clip_twin().state_dict(), depth=2)


def test_full_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        ours = ClipVit(ClipVit.Config(select_layer=-1))
        twin = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=24,
                num_attention_heads=16,
                patch_size=14,
            )
        )
    count = sum(p.numel() for p in ours.parameters())
    # All of the published trunk but the norm behind the last layer.
    assert count == sum(p.numel() for p in twin.parameters()) - 2 * 1024
    assert round(count / 1e6, 1) == 303.2
    assert ClipVit.Config().out_shape(1).num_tokens == 256


def test_another_image_size_resizes_positions_as_transformers_interpolates_them():
    twin = clip_twin()
    frames = torch.randn(1, 3, 20, 20)
    with torch.no_grad():
        expected = twin(
            pixel_values=frames, interpolate_pos_encoding=True, output_hidden_states=True
        ).hidden_states[-2]
    ours = loaded(twin.state_dict(), image_size=20)
    torch.testing.assert_close(encode(ours, frames), expected[:, 1:], **EXACT)


def test_positions_of_siglip_are_resized_too():
    twin = siglip_twin()
    frames = torch.randn(1, 3, 20, 20)
    with torch.no_grad():
        expected = twin(
            pixel_values=frames, interpolate_pos_encoding=True, output_hidden_states=True
        ).hidden_states[-2]
    ours = loaded(twin.state_dict(), family="siglip", image_size=20)
    torch.testing.assert_close(encode(ours, frames), expected, **EXACT)


def test_weights_come_back_under_the_published_names():
    twin = clip_twin()
    ours = loaded(twin.state_dict(), select_layer=-1)
    exported = export_weights(ours, key_map=ours.key_map())
    published = {f"vision_model.{name}": t for name, t in twin.state_dict().items()}
    published = {
        name.replace("vision_model." * 2, "vision_model."): t for name, t in published.items()
    }
    assert set(published) - set(exported) == {
        "vision_model.post_layernorm.weight",
        "vision_model.post_layernorm.bias",
    }
    assert all(torch.equal(tensor, published[name]) for name, tensor in exported.items())


def test_a_long_clip_passes_a_frozen_trunk_in_pieces_and_gives_the_same(monkeypatch):
    encoder = loaded(clip_twin().state_dict(), num_frames=5).requires_grad_(False)
    raw, mask = torch.randn(1, 5, 3, 12, 12), torch.ones(1, 5, dtype=torch.bool)
    whole = encoder(raw, mask).tokens
    seen = []
    monkeypatch.setattr(clip_vit, "MAX_FRAMES_AT_ONCE", 2)
    encoder.embeddings.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    torch.testing.assert_close(encoder(raw, mask).tokens, whole)
    assert seen == [2, 2, 1]
    encoder.requires_grad_(True)(raw, mask)
    assert seen[3:] == [5]


def test_gradients_reach_every_parameter():
    encoder = loaded(clip_twin().state_dict())
    encoder(
        torch.randn(1, 2, 3, 12, 12), torch.ones(1, 2, dtype=torch.bool)
    ).tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_low_precision_weights_keep_norms_and_output_in_float32():
    state = clip_twin().state_dict()
    exact, rough = loaded(state), loaded(state, dtype="bfloat16")
    layer = rough.repeated_layers()[0]
    assert layer.mlp.fc1.weight.dtype is torch.bfloat16
    assert layer.layer_norm1.weight.dtype is torch.float32
    frames = torch.randn(1, 3, 12, 12)
    tokens = encode(rough, frames)
    assert tokens.dtype is torch.float32
    error = (tokens - encode(exact, frames)).norm() / encode(exact, frames).norm()
    assert 0 < error < 0.02


def test_a_family_brings_its_own_pixels():
    clip, siglip = (ClipVit.Config(family=family).media_spec() for family in ("clip", "siglip"))
    assert (clip.mean[0], clip.std[0], clip.resize) == (0.48145466, 0.26862954, "short_side_crop")
    assert (siglip.mean, siglip.std, siglip.resize) == ((0.5,) * 3, (0.5,) * 3, "squash")
    assert ClipVit.Config(mean=(0.1,) * 3, resize="pad_square").media_spec().mean == (0.1,) * 3


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"image_size": 3}, "image_size 3 is smaller than patch_size 4"),
        ({"width": 30}, "width 30 is no multiple of num_heads 4"),
        ({"num_frames": 0}, "num_frames must be at least 1, found 0"),
        ({"select_layer": 0}, "select_layer 0 is none of the 3 layers"),
        ({"select_layer": 4}, "expected 1 to 3, or -1 to -3"),
        ({"select_layer": -4}, "select_layer -4 is none"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        ClipVit.Config(**{**SIZES, "image_size": 12, **sizes})
