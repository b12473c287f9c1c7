from __future__ import annotations

import pytest
import torch

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.types import AudioSpec, VideoSpec
from video_llama.common.weights import load_weights, read_state
from video_llama.models.encoders.imagebind import ImageBind

TINY = {
    "out_width": 24,
    "audio_width": 64,
    "audio_depth": 2,
    "audio_num_heads": 4,
    "vision_width": 32,
    "vision_depth": 2,
    "vision_num_heads": 4,
}


def load_tiny(goldens, *, device="cpu", **sizes) -> ImageBind:
    with torch.device(device):
        encoder = ImageBind(ImageBind.Config(**{**TINY, **sizes}))
    path = goldens / "imagebind_huge.pth"
    load_weights(encoder, read_state(path), key_map=encoder.key_map(), source=str(path))
    return encoder.eval()


def encode(encoder, steps):
    return encoder(steps, torch.ones(steps.shape[:2], dtype=torch.bool)).tokens[:, :, 0]


def block_shapes(prefix, *, width, depth, has_bias_kv):
    block = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "norm_1.weight": (width,),
        "norm_1.bias": (width,),
        "norm_2.weight": (width,),
        "norm_2.bias": (width,),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
        "mlp.fc2.bias": (width,),
    }
    if has_bias_kv:
        block |= {"attn.bias_k": (1, 1, width), "attn.bias_v": (1, 1, width)}
    return {
        f"{prefix}.{index}.{name}": shape for index in range(depth) for name, shape in block.items()
    }


AUDIO_SHAPES = {
    "modality_preprocessors.audio.cls_token": (1, 1, 768),
    "modality_preprocessors.audio.rgbt_stem.proj.weight": (768, 1, 16, 16),
    "modality_preprocessors.audio.rgbt_stem.norm_layer.weight": (768,),
    "modality_preprocessors.audio.rgbt_stem.norm_layer.bias": (768,),
    "modality_preprocessors.audio.pos_embedding_helper.pos_embed": (1, 229, 768),
    "modality_heads.audio.0.weight": (768,),
    "modality_heads.audio.0.bias": (768,),
    "modality_heads.audio.2.weight": (1024, 768),
    "modality_postprocessors.audio.1.log_logit_scale": (),
} | block_shapes("modality_trunks.audio.blocks", width=768, depth=12, has_bias_kv=True)

VISION_SHAPES = {
    "modality_preprocessors.vision.cls_token": (1, 1, 1280),
    "modality_preprocessors.vision.rgbt_stem.proj.1.weight": (1280, 3, 2, 14, 14),
    "modality_preprocessors.vision.pos_embedding_helper.pos_embed": (1, 257, 1280),
    "modality_trunks.vision.pre_transformer_layer.0.weight": (1280,),
    "modality_trunks.vision.pre_transformer_layer.0.bias": (1280,),
    "modality_heads.vision.0.weight": (1280,),
    "modality_heads.vision.0.bias": (1280,),
    "modality_heads.vision.2.weight": (1024, 1280),
} | block_shapes("modality_trunks.vision.blocks", width=1280, depth=32, has_bias_kv=False)


@pytest.mark.parametrize(
    ("trunk", "shapes", "num_keys", "num_elements"),
    [
        ("audio", AUDIO_SHAPES, 177, 86_235_649),
        ("vision", VISION_SHAPES, 392, 632_829_440),
    ],
)
def test_full_size_has_the_published_names_shapes_and_count(trunk, shapes, num_keys, num_elements):
    with torch.device("meta"):
        encoder = ImageBind(ImageBind.Config(trunk=trunk))
    inverse = encoder.key_map().invert()
    state = encoder.state_dict()
    assert {inverse.translate(name): tuple(t.shape) for name, t in state.items()} == shapes
    assert len(state) == num_keys
    assert sum(t.numel() for t in state.values()) == num_elements


@pytest.mark.parametrize(
    ("trunk", "name", "image_size"), [("audio", "audio", 224), ("vision", "vision56", 56)]
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_published_file_gives_the_published_tokens(
    trunk, name, image_size, device, goldens, golden
):
    expected = golden("imagebind")
    encoder = load_tiny(goldens, device=device, trunk=trunk, image_size=image_size)
    tokens = encode(encoder, expected[f"{name}.in"])
    torch.testing.assert_close(tokens, expected[f"{name}.final"], atol=1e-5, rtol=1e-5)


def test_the_vision_trunk_equals_the_published_convolution_over_two_frames(goldens):
    stem = load_tiny(goldens, trunk="vision").stem
    frames = torch.randn(2, 3, 224, 224)
    twice = frames[:, :, None].expand(-1, -1, 2, -1, -1)
    expected = torch.nn.functional.conv3d(twice, stem.weight, stride=(2, 14, 14))
    torch.testing.assert_close(
        stem(frames), expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4
    )


def test_released_sound_is_twenty_times_longer_than_matched(goldens, golden):
    mels = golden("imagebind")["audio.in"]
    released = encode(load_tiny(goldens), mels)
    matched = encode(load_tiny(goldens, audio_scale="matched"), mels)
    torch.testing.assert_close(matched.norm(dim=-1), torch.ones(matched.shape[:2]))
    torch.testing.assert_close(released, 20 * matched)


def test_the_learned_scale_is_clipped_at_a_hundred(goldens, golden):
    encoder = load_tiny(goldens)
    encoder.log_scale.fill_(7.0)
    tokens = encode(encoder, golden("imagebind")["audio.in"])
    torch.testing.assert_close(tokens.norm(dim=-1), torch.full(tokens.shape[:2], 100.0))


def test_a_fresh_audio_trunk_has_the_published_initial_scale():
    encoder = ImageBind(ImageBind.Config(**TINY))
    assert encoder.log_scale.exp().item() == pytest.approx(20.0)


def test_each_trunk_states_what_it_must_be_fed():
    audio = ImageBind.Config().media_spec()
    assert audio == AudioSpec(
        num_clips=8,
        clip_s=2.0,
        sample_rate_hz=16_000,
        num_mel_bins=128,
        num_mel_frames=204,
        mean=-4.268,
        std=9.138,
        clip_policy="clips",
    )
    video = ImageBind.Config(trunk="vision").media_spec()
    assert isinstance(video, VideoSpec)
    assert (video.num_frames, video.image_size) == (8, 224)


def test_overlapping_patches_tile_the_mel_as_published():
    assert ImageBind.Config().grid == (12, 19)


def test_another_mel_shape_than_the_files_is_refused(goldens):
    with pytest.raises(CheckpointMismatch, match="pos_embed"):
        load_tiny(goldens, num_mel_frames=100)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"audio_width": 50}, "audio_width 50 is no multiple of audio_num_heads 4"),
        ({"vision_width": 50}, "vision_width 50 is no multiple of vision_num_heads 4"),
        ({"image_size": 50}, "image_size 50 is no multiple of vision_patch_size 14"),
        ({"num_mel_frames": 8}, "smaller than one patch"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        ImageBind.Config(**{**TINY, **sizes})
