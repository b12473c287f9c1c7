"""Our networks against other implementations of the same ones, at sizes drawn at random.

What holds for the recorded sizes must hold for all; nothing here reads a recorded number. The
image Q-Former's and the trunk's twins of one picture size stand in tests/models.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from closeness import ACTIVATIONS, GRADIENTS, assert_close, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva, checkpoint_filter_fn
from torch import nn
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from video_llama.common.schema import PartConfig
from video_llama.common.types import IGNORE_INDEX, Features, Shape
from video_llama.common.weights import export_weights, load_weights
from video_llama.models.bridges.qformer import QFormer, published_names
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.encoders.eva_vit_g import EvaVitG
from video_llama.models.encoders.imagebind import Block, ImageBind

few = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**31)


def randomise(module, seed, *, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return generator


@few
@given(
    heads=st.integers(1, 3),
    layers=st.integers(1, 3),
    frequency=st.integers(1, 3),
    num_steps=st.integers(1, 5),
    num_tokens=st.integers(1, 4),
    seed=seeds,
)
def test_a_video_qformer_is_instructblips_over_all_frames(
    heads, layers, frequency, num_steps, num_tokens, seed
):
    width, source = 4 * heads, 6
    config = QFormer.Config(
        num_queries=3,
        num_layers=layers,
        width=width,
        num_heads=heads,
        ffn_width=2 * width,
        cross_attention_frequency=frequency,
        num_positions=5,
    )
    ours = QFormer(config, Shape(num_steps, num_tokens, source)).eval()
    generator = randomise(ours, seed)
    for norm in (module for module in ours.modules() if isinstance(module, nn.LayerNorm)):
        norm.weight.data += 1  # as norms begin; about 0 they would wipe the output out
    twin = InstructBlipQFormerModel(
        InstructBlipQFormerConfig(
            vocab_size=5,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=2 * width,
            cross_attention_frequency=frequency,
            encoder_hidden_size=source,
        )
    ).eval()
    key_map = published_names(network="Qformer", queries="query_tokens", positions="positions")
    state = export_weights(ours, key_map=key_map)
    names = {
        name.removeprefix("Qformer.bert.")
        .replace("embeddings.LayerNorm", "embeddings.layernorm")
        .replace(".self.", ".attention."): tensor
        for name, tensor in state.items()
        if name not in ("query_tokens", "positions")
    }
    missing, unexpected = twin.load_state_dict(names, strict=False)
    # InstructBLIP has a branch for text beside that of the queries.
    text_only = ("embeddings.word", "embeddings.position", ".intermediate.", ".output.")
    assert not unexpected
    assert all(any(word in name for word in text_only) for name in missing)
    tokens = torch.randn(2, num_steps, num_tokens, source, generator=generator)
    mask = torch.rand(2, num_steps, num_tokens, generator=generator) < 0.7
    mask[:, 0, 0] = True
    with torch.no_grad():
        found = ours(Features(tokens, mask)).tokens[:, 0]
        located = (tokens + ours.positions.weight[:num_steps, None]).flatten(1, 2)
        expected = twin(
            input_ids=None,
            query_embeds=ours.queries.expand(2, -1, -1),
            attention_mask=torch.ones(2, 3, dtype=torch.int64),
            encoder_hidden_states=located,
            encoder_attention_mask=mask.flatten(1).long(),
        ).last_hidden_state
    assert found.std() > 0.1
    assert_close(found, expected, kind="twin: Q-Former")


def published_trunk(width, depth, hidden, side, generator):
    """A random state dict in the published layout, for a grid of `side` x `side` patches."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + side * side, width),
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "patch_embed.proj.bias": (width,),
    }
    for index in range(depth):
        for name, shape in {
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
        }.items():
            shapes[f"blocks.{index}.{name}"] = shape
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


@few
@given(
    heads=st.integers(1, 3),
    depth=st.integers(1, 3),
    ratio=st.floats(1.0, 5.0),
    old=st.integers(1, 6),
    new=st.integers(1, 6),
    seed=seeds,
)
def test_the_eva_trunk_is_timms_at_any_size_of_picture(heads, depth, ratio, old, new, seed):
    width = 8 * heads
    generator = torch.Generator().manual_seed(seed)
    published = published_trunk(width, depth, int(width * ratio), old, generator)
    config = EvaVitG.Config(
        image_size=4 * new,
        patch_size=4,
        width=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=ratio,
    )
    ours = EvaVitG(config).eval()
    load_weights(ours, published, key_map=ours.key_map(), source="random")
    twin = Eva(
        img_size=4 * new,
        patch_size=4,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=ratio,
        qkv_fused=True,
        num_classes=0,
        global_pool="",
        use_rot_pos_emb=False,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()
    twin.norm = nn.Identity()
    stretched = resample_abs_pos_embed(
        published["pos_embed"], (new, new), num_prefix_tokens=1, antialias=False
    )
    twin.load_state_dict(checkpoint_filter_fn({**published, "pos_embed": stretched}, twin))
    frames = torch.randn(2, 1, 3, 4 * new, 4 * new, generator=generator)
    with torch.no_grad():
        found = ours(frames, torch.ones(2, 1, dtype=torch.bool)).tokens[:, 0]
        assert_close(found, twin(frames[:, 0]), kind="twin: EVA trunk")


@few
@given(heads=st.integers(1, 4), length=st.integers(1, 9), has_bias=st.booleans(), seed=seeds)
def test_an_imagebind_block_is_torchs_attention_with_one_more_key(heads, length, has_bias, seed):
    width = 4 * heads
    block = Block(width, num_heads=heads, has_bias_kv=has_bias).eval()
    generator = randomise(block, seed)
    hidden = torch.randn(2, length, width, generator=generator)
    with torch.no_grad():
        found = block(hidden)
        assert_close(found, block_by_hand(block, hidden, heads=heads), kind="twin: ImageBind")


def block_by_hand(block, hidden, *, heads):
    """One block of ImageBind written out: bias_k and bias_v are a key and a value for everybody."""
    attention, normed = block.attn, block.norm_1(hidden)
    query, key, value = (normed @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, -1)
    if attention.bias_k is not None:
        key = torch.cat([key, attention.bias_k.expand(len(key), -1, -1)], dim=1)
        value = torch.cat([value, attention.bias_v.expand(len(value), -1, -1)], dim=1)
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)
    )
    weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
    hidden = hidden + attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
    up = block.mlp.fc1(block.norm_2(hidden))
    return hidden + block.mlp.fc2(up * 0.5 * (1 + torch.erf(up / math.sqrt(2))))


@few
@given(bins=st.integers(4, 12), frames=st.integers(4, 12), stride=st.integers(1, 4), seed=seeds)
def test_a_trunk_of_imagebind_is_torchs_encoder_layers_between_stem_and_head(
    bins, frames, stride, seed
):
    config = ImageBind.Config(
        out_width=5,
        audio_width=8,
        audio_depth=2,
        audio_num_heads=2,
        audio_patch_size=4,
        audio_patch_stride=stride,
        num_mel_bins=bins,
        num_mel_frames=frames,
        audio_scale="matched",
    )
    ours = ImageBind(config).eval()
    generator = randomise(ours, seed)
    mels = torch.randn(2, 1, 1, bins, frames, generator=generator)
    with torch.no_grad():
        found = ours(mels, torch.ones(2, 1, dtype=torch.bool)).tokens[:, 0, 0]
        patches = mels[:, 0, 0].unfold(1, 4, stride).unfold(2, 4, stride).flatten(3).flatten(1, 2)
        stem = nn.functional.layer_norm(
            patches @ ours.stem.weight.flatten(1).T,
            (8,),
            ours.stem.norm.weight,
            ours.stem.norm.bias,
            1e-5,
        )
        hidden = torch.cat([ours.cls_token.expand(2, -1, -1), stem], dim=1) + ours.positions
        for block in ours.blocks:
            hidden = block_by_hand(block, hidden, heads=2)
        expected = ours.norm(hidden)[:, 0] @ ours.head.weight.T
        expected = expected / expected.norm(dim=-1, keepdim=True)
    assert_close(found, expected, kind="twin: ImageBind")


@few
@given(
    supervised=st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=3),
    lengths=st.lists(st.integers(3, 7), min_size=3, max_size=3),
    heads=st.integers(1, 3),
    seed=seeds,
)
def test_loss_and_gradients_of_the_decoder_are_transformers_own(supervised, lengths, heads, seed):
    sizes = {
        "hidden_size": 8 * heads,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "vocab_size": 30,
        "max_position_embeddings": 16,
    }
    part = PartConfig("causal_lm", CausalLM.Config(architecture={"model_type": "llama"} | sizes))
    ours = CausalLM(part)
    generator = randomise(ours, seed)
    twin = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    twin.load_state_dict(ours.model.state_dict())
    num_rows = len(supervised)
    mask = torch.arange(7) < torch.tensor(lengths[:num_rows])[:, None]
    labels = torch.randint(0, 30, (num_rows, 7), generator=generator)
    labels = torch.where(torch.tensor(supervised) & mask, labels, IGNORE_INDEX)
    labels[0, 1] = 3
    embeds = torch.randn(num_rows, 7, 8 * heads, generator=generator)
    fed, fed_twin = (embeds.clone().requires_grad_() for _ in range(2))
    loss = ours.loss(fed, attention_mask=mask, labels=labels).token_loss.mean()
    expected = twin(inputs_embeds=fed_twin, attention_mask=mask.long(), labels=labels).loss
    loss.backward()
    expected.backward()
    assert_close(loss, expected, kind="twin: decoder", limit=ACTIVATIONS)
    assert_close(fed.grad, fed_twin.grad, kind="twin: decoder", limit=GRADIENTS)


def test_a_shuffled_name_would_be_noticed():
    """The twins compare something: another assignment of the same tensors gives other numbers."""
    block = Block(8, num_heads=2, has_bias_kv=True).eval()
    generator = randomise(block, 0)
    hidden = torch.randn(1, 3, 8, generator=generator)
    with torch.no_grad():
        before = block(hidden)
        block.attn.bias_k, block.attn.bias_v = block.attn.bias_v, block.attn.bias_k
        assert relative_error(block(hidden), before) > 100 * ACTIVATIONS
