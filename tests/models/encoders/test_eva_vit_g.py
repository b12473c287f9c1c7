from __future__ import annotations

import pytest
import torch
from transformers import Blip2VisionConfig, Blip2VisionModel

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.weights import export_weights, load_weights, read_state
from video_llama.models.encoders.eva_vit_g import EvaVitG

TINY = {"image_size": 56, "width": 48, "depth": 3, "num_heads": 4}


def load_tiny(goldens, *, device="cpu", **sizes) -> EvaVitG:
    with torch.device(device):
        encoder = EvaVitG(EvaVitG.Config(**{**TINY, **sizes}))
    path = goldens / "eva_vit_g_tiny.pth"
    load_weights(encoder, read_state(path), key_map=encoder.key_map(), source=str(path))
    return encoder.eval()


def encode(encoder, frames):
    return encoder(frames[:, None], torch.ones(len(frames), 1, dtype=torch.bool)).tokens[:, 0]


def published_shapes(*, width, depth, hidden, patch, num_patches):
    """The names and shapes of the published file, from its description."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + num_patches, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    block = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.q_bias": (width,),
        "attn.v_bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
        "mlp.fc2.bias": (width,),
    }
    for index in range(depth):
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    return shapes


def test_full_size_has_the_published_names_shapes_and_count():
    with torch.device("meta"):
        encoder = EvaVitG(EvaVitG.Config())
    inverse = encoder.key_map().invert()
    found = {inverse.translate(n): tuple(t.shape) for n, t in encoder.state_dict().items()}
    assert found == published_shapes(width=1408, depth=39, hidden=6144, patch=14, num_patches=256)
    assert sum(p.numel() for p in encoder.parameters()) == 985_894_528


def test_the_published_file_gives_the_published_tokens(goldens, golden):
    expected = golden("eva_qformer")
    tokens = encode(load_tiny(goldens), expected["eva.in"])
    torch.testing.assert_close(tokens, expected["eva.out"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [28, 84])
def test_another_image_size_resizes_positions_as_published(size, goldens, golden):
    expected = golden("eva_interp")
    encoder = load_tiny(goldens, image_size=size)
    torch.testing.assert_close(
        encoder.vit.pos_embed, expected[f"interp{size}.pos_embed"], atol=1e-6, rtol=1e-5
    )
    tokens = encode(encoder, expected[f"interp{size}.in"])
    torch.testing.assert_close(tokens, expected[f"interp{size}.out"], atol=2e-5, rtol=1e-5)


def test_built_on_meta_it_loads_to_the_same_network(goldens, golden):
    frames = golden("eva_qformer")["eva.in"]
    assert torch.equal(
        encode(load_tiny(goldens, device="meta"), frames), encode(load_tiny(goldens), frames)
    )


def test_blocks_past_the_depth_norm_and_head_are_dropped_by_name(goldens):
    encoder = EvaVitG(EvaVitG.Config(**TINY))
    state = read_state(goldens / "eva_vit_g_tiny.pth")
    report = load_weights(encoder, state, key_map=encoder.key_map(), source="x")
    assert sorted(report.dropped.values()) == [4, 13]
    assert report.matched == len(state) - 17


def test_a_file_with_too_few_blocks_is_refused(goldens):
    encoder = EvaVitG(EvaVitG.Config(**{**TINY, "depth": 5}))
    state = read_state(goldens / "eva_vit_g_tiny.pth")
    with pytest.raises(CheckpointMismatch, match=r"13 in the model[\s\S]*blocks\.4\.norm1"):
        load_weights(encoder, state, key_map=encoder.key_map(), source="x")


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_agree_with_the_transformers_twin(seed):
    generator = torch.Generator().manual_seed(seed)
    depth, heads = 1 + seed, 2 + seed
    width = heads * 8
    config = EvaVitG.Config(
        image_size=28, width=width, depth=depth, num_heads=heads, mlp_ratio=2.0 + seed / 2
    )
    ours = EvaVitG(config).eval()
    for tensor in ours.parameters():
        tensor.data = torch.randn(tensor.shape, generator=generator) * 0.2
    twin = Blip2VisionModel(
        Blip2VisionConfig(
            hidden_size=width,
            intermediate_size=int(width * config.mlp_ratio),
            num_hidden_layers=depth,
            num_attention_heads=heads,
            image_size=28,
            patch_size=14,
            layer_norm_eps=1e-6,
        )
    ).eval()
    twin.post_layernorm = torch.nn.Identity()
    twin.load_state_dict(twin_names(export_weights(ours, key_map=ours.key_map())))
    frames = torch.randn(2, 3, 28, 28, generator=generator)
    with torch.no_grad():
        expected = twin(pixel_values=frames).last_hidden_state
        torch.testing.assert_close(encode(ours, frames), expected, atol=1e-5, rtol=1e-5)


def twin_names(state):
    names = {
        "patch_embed.proj": "embeddings.patch_embedding",
        "cls_token": "embeddings.class_embedding",
        "pos_embed": "embeddings.position_embedding",
        "blocks.": "encoder.layers.",
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.proj": "self_attn.projection",
        "attn.qkv": "self_attn.qkv",
    }
    twin = {}
    for name, tensor in state.items():
        if name.endswith("v_bias"):
            continue
        if name.endswith("q_bias"):
            value_bias = state[name.replace("q_bias", "v_bias")]
            tensor = torch.cat([tensor, torch.zeros_like(tensor), value_bias])
            name = name.replace("q_bias", "qkv.bias")
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        twin[name] = tensor
    return twin


def test_missing_frames_are_zeros_and_change_nothing(goldens):
    encoder = load_tiny(goldens)
    raw = torch.randn(2, 3, 3, 56, 56)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    features = encoder(raw, mask)
    assert torch.equal(features.mask, mask[..., None].expand(2, 3, 17))
    assert features.tokens[~mask].abs().max() == 0
    alone = encoder(raw[1:, :1], mask[1:, :1])
    torch.testing.assert_close(features.tokens[1, 0], alone.tokens[0, 0], atol=1e-5, rtol=1e-5)


def test_low_precision_weights_keep_norms_and_output_in_float32(goldens):
    exact, rough = load_tiny(goldens), load_tiny(goldens, dtype="bfloat16")
    assert rough.vit.blocks[0].mlp.fc1.weight.dtype is torch.bfloat16
    assert rough.vit.blocks[0].norm1.weight.dtype is torch.float32
    frames = torch.randn(1, 3, 56, 56)
    tokens = encode(rough, frames)
    assert tokens.dtype is torch.float32
    error = (tokens - encode(exact, frames)).norm() / encode(exact, frames).norm()
    assert 0 < error < 0.02


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"image_size": 50}, "image_size 50 is no multiple of patch_size 14"),
        ({"width": 50}, "width 50 is no multiple of num_heads 4"),
        ({"depth": 0}, "at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        EvaVitG.Config(**{**TINY, **sizes})
