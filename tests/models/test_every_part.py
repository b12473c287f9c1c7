"""What every registered encoder and bridge stage promises, at the smallest sizes.

A new part gets all of this for one entry in `ENCODERS` or `BRIDGES`: its registered name, and for
each variant worth trying the keys of its `Config` that make it tiny.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from video_llama.common.registry import registry
from video_llama.common.types import AudioSpec, Features, Shape, VideoSpec

VIT = {"image_size": 9, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2, "ffn_width": 16}
ENCODERS = {
    "clip_vit": [VIT, VIT | {"drop_class_token": False}, VIT | {"family": "siglip"}],
    "eva_vit_g": [{"image_size": 28, "width": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}],
    "hf_audio": [
        {
            "family": "whisper",
            "clip_s": 0.4,
            "architecture": {
                "d_model": 16,
                "encoder_layers": 1,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 16,
            },
        },
        {
            "family": "ast",
            "num_tokens": 3,
            "architecture": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "num_mel_bins": 40,
                "max_length": 64,
            },
        },
        {
            "family": "clap",
            "clip_s": 1.0,
            "architecture": {
                "patch_embeds_hidden_size": 8,
                "depths": [1, 1],
                "num_attention_heads": [2, 2],
                "hidden_size": 16,
                "spec_size": 64,
                "num_mel_bins": 16,
                "window_size": 4,
            },
        },
    ],
    "imagebind": [
        {
            "trunk": trunk,
            "out_width": 12,
            "image_size": 28,
            "num_mel_bins": 26,
            "num_mel_frames": 36,
            "audio_width": 16,
            "audio_depth": 1,
            "audio_num_heads": 2,
            "vision_width": 16,
            "vision_depth": 1,
            "vision_num_heads": 2,
        }
        for trunk in ("audio", "vision")
    ],
    "languagebind": [VIT, VIT | {"temporal_attention": False}],
    "timm_vit": [{"model": "test_vit2"}, {"model": "test_efficientnet", "drop_prefix": False}],
}
ACROSS_TIME = {"temporal_attention": True}
"""Keys by whose default or value an encoder lets the steps of a row see each other."""

BRIDGES = {
    "frame_positions": [{"num_positions": 4}, {"num_positions": 2}],
    "layer_norm": [{}],
    "mlp": [{"width": 12}, {"width": 12, "depth": 1}, {"width": 7, "depth": 3, "hidden_width": 5}],
    "projection": [{"width": 12}],
    "qformer": [
        {"num_queries": 3, "num_layers": 2, "width": 8, "num_heads": 2, "ffn_width": 8} | more
        for more in ({"over": "step"}, {"over": "item"}, {"over": "item", "num_positions": 4})
    ],
}
IN_SHAPE = Shape(num_steps=4, num_tokens=5, width=6)


def cases(table):
    return [(name, sizes) for name, variants in table.items() for sizes in variants]


def build_encoder(name, sizes):
    cls = registry.get_encoder_class(name)
    return cls(cls.Config(**sizes)).eval()


def looks_across_time(config):
    return any(getattr(config, key, None) == value for key, value in ACROSS_TIME.items())


def build_bridge(name, sizes):
    cls = registry.get_bridge_class(name)
    return cls(cls.Config(**sizes), IN_SHAPE).eval()


def raw_for(config, rows, steps):
    spec = config.media_spec()
    if isinstance(spec, AudioSpec):
        return torch.randn(rows, steps, 1, spec.num_mel_bins, spec.num_mel_frames)
    assert isinstance(spec, VideoSpec)
    return torch.randn(rows, steps, 3, spec.image_size, spec.image_size)


@pytest.mark.parametrize(("kind", "table"), [("encoder", ENCODERS), ("bridge", BRIDGES)])
def test_every_registered_part_is_tried_here(kind, table):
    ours = {
        name
        for name in registry.names(kind)
        if registry.get(kind, name).__module__.startswith("video_llama.")
    }
    forgotten = ours - set(table)
    assert not forgotten, (
        f"{kind} {', '.join(sorted(forgotten))}: not tried; add tiny sizes to "
        f"{kind.upper()}S in {Path(__file__).name}, e.g. '{min(forgotten)}': [{{...}}]"
    )
    assert set(table) <= ours


@pytest.mark.parametrize(("name", "sizes"), cases(ENCODERS))
@pytest.mark.parametrize(("rows", "steps"), [(2, 3), (1, 1)])
def test_an_encoder_gives_the_shape_it_states(name, sizes, rows, steps):
    encoder = build_encoder(name, sizes)
    mask = torch.ones(rows, steps, dtype=torch.bool)
    features = encoder(raw_for(encoder.config, rows, steps), mask)
    shape = encoder.config.out_shape(steps)
    assert features.tokens.shape == (rows, shape.num_steps, shape.num_tokens, shape.width)
    assert features.mask.shape == features.tokens.shape[:3]


@pytest.mark.parametrize(("name", "sizes"), cases(ENCODERS))
@pytest.mark.parametrize(("rows", "steps"), [(0, 3), (2, 3)])
def test_an_encoder_without_valid_steps_stays_in_the_graph(name, sizes, rows, steps):
    encoder = build_encoder(name, sizes)
    mask = torch.zeros(rows, steps, dtype=torch.bool)
    features = encoder(raw_for(encoder.config, rows, steps), mask)
    assert features.tokens.abs().sum() == 0
    features.tokens.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in encoder.parameters())


@pytest.mark.parametrize(("name", "sizes"), cases(ENCODERS))
def test_an_encoder_keeps_rows_apart(name, sizes):
    encoder = build_encoder(name, sizes)
    raw = raw_for(encoder.config, 3, 3)
    mask = torch.tensor([[True, True, False], [False, True, True], [True, True, True]])
    tokens = encoder(raw, mask).tokens
    alone = encoder(raw[1:2], mask[1:2]).tokens
    torch.testing.assert_close(tokens[1:2], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "sizes"), cases(ENCODERS))
def test_an_encoder_keeps_no_statistics_of_what_it_learns_from(name, sizes):
    encoder = build_encoder(name, sizes).train()
    before = {key: buffer.clone() for key, buffer in encoder.named_buffers()}
    encoder(raw_for(encoder.config, 2, 3), torch.ones(2, 3, dtype=torch.bool))
    assert all(torch.equal(buffer, before[key]) for key, buffer in encoder.named_buffers())


@pytest.mark.parametrize(("name", "sizes"), cases(ENCODERS))
def test_an_encoder_keeps_steps_apart_unless_it_looks_across_time(name, sizes):
    encoder = build_encoder(name, sizes)
    if looks_across_time(encoder.config):
        return
    raw = raw_for(encoder.config, 2, 3)
    mask = torch.tensor([[True, True, False], [False, True, True]])
    tokens = encoder(raw, mask).tokens
    alone = encoder(raw[1:, 2:], mask[1:, 2:]).tokens
    torch.testing.assert_close(tokens[1, 2], alone[0, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "sizes"), cases(ENCODERS))
def test_what_stands_in_a_masked_step_does_not_matter_to_an_encoder(name, sizes):
    encoder = build_encoder(name, sizes)
    raw = raw_for(encoder.config, 2, 3)
    mask = torch.tensor([[True, True, False], [False, True, True]])
    before = encoder(raw, mask)
    raw[~mask] = float("nan")
    after = encoder(raw, mask)
    assert torch.equal(before.tokens, after.tokens)
    assert not after.tokens[~mask].any()
    assert torch.equal(after.mask.any(-1), mask)


@pytest.mark.parametrize(("name", "sizes"), cases(ENCODERS))
def test_an_encoders_key_map_leads_back(name, sizes):
    encoder = build_encoder(name, sizes)
    key_map = encoder.key_map()
    names = list(encoder.state_dict())
    published = [key_map.invert().translate(name) for name in names]
    assert [key_map.translate(name) for name in published] == names
    assert not any(key_map.dropped_because(name) for name in published)


@pytest.mark.parametrize(("name", "sizes"), cases(BRIDGES))
@pytest.mark.parametrize("rows", [2, 1, 0])
def test_a_bridge_gives_the_shape_it_states(name, sizes, rows):
    bridge = build_bridge(name, sizes)
    tokens = torch.randn(rows, 4, 5, 6)
    features = bridge(Features(tokens, torch.ones(rows, 4, 5, dtype=torch.bool)))
    shape = bridge.config.out_shape(IN_SHAPE)
    assert features.tokens.shape == (rows, shape.num_steps, shape.num_tokens, shape.width)
    assert features.mask.shape == features.tokens.shape[:3]


@pytest.mark.parametrize(("name", "sizes"), cases(BRIDGES))
def test_a_bridge_without_rows_stays_in_the_graph(name, sizes):
    bridge = build_bridge(name, sizes)
    features = bridge(Features(torch.zeros(0, 4, 5, 6), torch.ones(0, 4, 5, dtype=torch.bool)))
    features.tokens.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in bridge.parameters())


@pytest.mark.parametrize(("name", "sizes"), cases(BRIDGES))
def test_a_bridge_keeps_rows_apart(name, sizes):
    bridge = build_bridge(name, sizes)
    tokens = torch.randn(3, 4, 5, 6)
    mask = torch.rand(3, 4, 5) < 0.7
    together = bridge(Features(tokens, mask)).tokens
    alone = bridge(Features(tokens[1:2], mask[1:2])).tokens
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "sizes"), cases(BRIDGES))
def test_what_a_masked_token_holds_does_not_matter_to_a_bridge(name, sizes):
    bridge = build_bridge(name, sizes)
    tokens = torch.randn(2, 4, 5, 6)
    mask = torch.rand(2, 4, 5) < 0.7
    mask[:, :, 0] = True
    before = bridge(Features(tokens, mask))
    after = bridge(Features(torch.where(mask[..., None], tokens, 1e4), mask))
    assert torch.equal(before.mask, after.mask)
    assert torch.equal(before.tokens[before.mask], after.tokens[after.mask])


@pytest.mark.parametrize(("name", "sizes"), cases(BRIDGES))
def test_a_bridge_masks_what_could_read_nothing(name, sizes):
    bridge = build_bridge(name, sizes)
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[1] = True
    features = bridge(Features(torch.randn(2, 4, 5, 6), mask))
    assert not features.mask[0].any()
    assert features.mask[1].all()
    assert features.tokens.isfinite().all()


@pytest.mark.parametrize(
    "build",
    [lambda case=case: build_encoder(*case) for case in cases(ENCODERS)]
    + [lambda case=case: build_bridge(*case) for case in cases(BRIDGES)],
)
def test_every_part_can_be_built_without_memory(build):
    with torch.device("meta"):
        part = build()
    assert all(tensor.is_meta for tensor in part.state_dict().values())
