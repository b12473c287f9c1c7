from __future__ import annotations

import math

import pytest
import torch
from models.encoders.made_vit import SIZES, clip_twin, hidden_states, randomised

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.weights import load_weights
from video_llama.models.encoders.clip_vit import ClipVit
from video_llama.models.encoders.languagebind import Clips, LanguageBind, TemporalLayer

EXACT = {"atol": 1e-5, "rtol": 1e-5}


def config(**changes) -> LanguageBind.Config:
    return LanguageBind.Config(
        **{**SIZES, "image_size": 12, "num_frames": 4, "num_positions": 4, **changes}
    )


@pytest.fixture(scope="module")
def encoder() -> LanguageBind:
    return randomised(LanguageBind(config()))


def run(encoder, raw, mask=None):
    mask = torch.ones(raw.shape[:2], dtype=torch.bool) if mask is None else mask
    with torch.no_grad():
        return encoder(raw, mask).tokens


def clip(rows=1, frames=4, seed=1):
    return torch.randn(rows, frames, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def test_without_temporal_attention_every_frame_is_transformers_clip():
    twin = clip_twin(activation="gelu")
    ours = LanguageBind(config(temporal_attention=False))
    load_weights(ours, twin.state_dict(), key_map=ours.key_map(), source="twin")
    raw = clip(rows=2)
    expected = hidden_states(twin, raw.flatten(0, 1))[-2].unflatten(0, (2, 4))
    torch.testing.assert_close(run(ours, raw), expected, **EXACT)


def by_hand(state, raw):
    """The published forward pass, one token and one head at a time, in double precision."""
    state = {name: tensor.double() for name, tensor in state.items()}
    num_heads, width = SIZES["num_heads"], SIZES["width"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def attend(rows, name):
        query, key, value = (linear(rows, f"{name}.{part}_proj") for part in "qkv")
        size, read = width // num_heads, []
        for head in range(num_heads):
            span = slice(head * size, (head + 1) * size)
            scores = query[:, span] @ key[:, span].T / math.sqrt(size)
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            read.append(weights @ value[:, span])
        return linear(torch.cat(read, dim=-1), f"{name}.out_proj")

    frames = []
    for picture in raw.double():
        patches = picture.unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).reshape(9, -1)
        kernel = state["embeddings.patch_embedding.weight"].flatten(1)
        tokens = torch.cat([state["embeddings.class_embedding"][None], patches @ kernel.T])
        tokens = tokens + state["embeddings.position_embedding.weight"]
        frames.append(norm(tokens, "pre_layrnorm"))
    hidden = torch.stack(frames)
    for index in range(2):
        layer = f"encoder.layers.{index}"
        for place in range(hidden.shape[1]):
            tube = hidden[:, place]
            if len(tube) > 1:
                tube = tube + stretched(state[f"{layer}.temporal_embedding"][0], len(tube))
            normed = norm(tube, f"{layer}.temporal_layer_norm1")
            hidden[:, place] = tube + attend(normed, f"{layer}.temporal_attn")
        for t in range(len(hidden)):
            frame = hidden[t] + attend(
                norm(hidden[t], f"{layer}.layer_norm1"), f"{layer}.self_attn"
            )
            inner = linear(norm(frame, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
            inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
            hidden[t] = frame + linear(inner, f"{layer}.mlp.fc2")
    return hidden


def stretched(table, num_frames):
    """Lay a table over a number of frames, from its first row to its last."""
    rows = []
    for t in range(num_frames):
        place = t * (len(table) - 1) / (num_frames - 1)
        low = min(int(place), len(table) - 2)
        share = place - low
        rows.append((1 - share) * table[low] + share * table[low + 1])
    return torch.stack(rows)


@pytest.mark.parametrize("frames", [4, 1, 3, 6])
def test_the_temporal_block_is_what_one_works_out_by_hand(encoder, frames):
    raw = clip(frames=frames)
    expected = by_hand(encoder.state_dict(), raw[0])
    torch.testing.assert_close(run(encoder, raw)[0].double(), expected, **EXACT)


def test_the_order_of_frames_matters(encoder):
    raw, order = clip(), [2, 0, 3, 1]
    tokens = run(encoder, raw)
    shuffled = run(encoder, raw[:, order])
    assert (shuffled - tokens[:, order]).abs().max() > 0.01
    without = randomised(LanguageBind(config(temporal_attention=False)))
    torch.testing.assert_close(run(without, raw[:, order]), run(without, raw)[:, order], **EXACT)


def test_without_its_table_the_trunk_cannot_tell_the_order():
    blind = randomised(LanguageBind(config()))
    for layer in blind.repeated_layers():
        layer.temporal_embedding.data.zero_()
    raw, order = clip(), [2, 0, 3, 1]
    torch.testing.assert_close(run(blind, raw[:, order]), run(blind, raw)[:, order], **EXACT)


def test_every_frame_sees_later_and_earlier_ones(encoder):
    raw = clip()
    changed = raw.clone()
    changed[:, 2] += 1
    moved = (run(encoder, raw) - run(encoder, changed)).abs().amax(dim=(2, 3))[0]
    assert (moved > 1e-3).all()


def test_a_single_frame_has_no_place_in_time(encoder):
    raw = clip(frames=1)
    before = run(encoder, raw)
    other = randomised(LanguageBind(config()))
    for layer in other.repeated_layers():
        layer.temporal_embedding.data += 5
    assert torch.equal(run(other, raw), before)
    assert (run(other, clip()) - run(encoder, clip())).abs().max() > 0.01


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [(3, [0, 2, 4]), (2, [0, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4])],
)
def test_the_table_is_stretched_evenly_over_other_lengths(num_frames, expected):
    layer = TemporalLayer(config(num_positions=5))
    layer.temporal_embedding.data = torch.arange(5.0)[None, :, None].expand(1, 5, 32).clone()
    mask = torch.ones(1, num_frames, dtype=torch.bool)
    found = layer.positions(Clips.of(mask, num_rows=5, is_full=True))[0]
    assert torch.equal(found, torch.tensor(expected).float()[:, None].expand(-1, 32))


def test_layers_are_entered_once_whatever_the_rows_hold(encoder):
    entered = []
    hook = encoder.repeated_layers()[0].register_forward_hook(lambda *_: entered.append(1))
    try:
        for mask in ([[1, 1, 1, 1], [1, 0, 0, 0]], [[0] * 4] * 2, [[1] * 4] * 2):
            run(encoder, clip(rows=2), torch.tensor(mask).bool())
        run(encoder, clip()[:0])
    finally:
        hook.remove()
    assert len(entered) == 4


def test_another_number_of_frames_is_said_once(encoder, caplog, monkeypatch):
    monkeypatch.setattr(encoder, "_has_warned", False)
    with caplog.at_level("WARNING"):
        for frames in (4, 1, 6, 6, 3):
            run(encoder, clip(frames=frames))
    assert [record.getMessage() for record in caplog.records] == [
        "languagebind: a clip of 6 frames; the weights were trained with 4, positions in time are "
        "stretched (said once)"
    ]


def test_padding_is_no_part_of_a_clip(encoder):
    raw = clip(rows=4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    raw[~mask] = float("nan")
    tokens = run(encoder, raw, mask)
    for row, length in enumerate(mask.sum(1)):
        alone = run(encoder, raw[row, mask[row]][None])
        assert alone.shape[1] == length
        torch.testing.assert_close(tokens[row, mask[row]], alone[0], **EXACT)
        by_itself = run(encoder, raw[row : row + 1], mask[row : row + 1])
        assert torch.equal(by_itself[0, mask[row]], alone[0])
    assert not tokens[~mask].any()


def test_gradients_reach_every_parameter_but_the_table_of_a_single_frame():
    encoder = randomised(LanguageBind(config()))
    encoder(clip(), torch.ones(1, 4, dtype=torch.bool)).tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())
    encoder.zero_grad()
    encoder(clip(frames=1), torch.ones(1, 1, dtype=torch.bool)).tokens.square().sum().backward()
    for layer in encoder.repeated_layers():
        assert layer.temporal_embedding.grad is not None
        assert not layer.temporal_embedding.grad.any()


def test_gradients_of_padded_clips_are_those_of_each_alone():
    encoder = randomised(LanguageBind(config()))
    raw = clip(rows=3)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    encoder(raw, mask).tokens.square().sum().backward()
    together = [p.grad for p in encoder.parameters()]
    encoder.zero_grad()
    for row in (0, 1):
        frames = raw[row, mask[row]][None]
        encoder(frames, torch.ones(frames.shape[:2]).bool()).tokens.square().sum().backward()
    for found, parameter in zip(together, encoder.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, atol=1e-3, rtol=1e-4)


def test_temporal_weights_are_left_out_by_name_where_they_are_off(encoder):
    state = {f"vision_model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    off = LanguageBind(config(temporal_attention=False))
    report = load_weights(off, state, key_map=off.key_map(), source="x")
    assert report.dropped == {"temporal_attention is off": 2 * 11}


def test_a_file_without_temporal_weights_is_refused_where_they_are_on():
    ours = LanguageBind(config())
    with pytest.raises(CheckpointMismatch, match="temporal_attn"):
        load_weights(ours, clip_twin().state_dict(), key_map=ours.key_map(), source="x")


def test_full_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        whole = LanguageBind(LanguageBind.Config(select_layer=-1))
        plain = ClipVit(ClipVit.Config(select_layer=-1))
    counts = [sum(p.numel() for p in part.parameters()) for part in (whole, plain)]
    assert counts[0] - counts[1] == 24 * (4 * (1024**2 + 1024) + 2 * 1024 + 8 * 1024)
    assert round((counts[0] + 2048) / 1e6, 1) == 404.2
    shape = LanguageBind.Config().out_shape(8)
    assert shape.num_slots == 8 * 257 == 2056


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"family": "siglip"}, "family clip, found siglip"), ({"num_positions": 0}, "found 0")],
)
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        config(**changes)
