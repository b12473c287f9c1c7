"""The toy decoder before training: its size, and the heads it starts with.

LLaMA has no biases and no absolute positions, so a head that looks one token back, which every
look-up needs, is slow to appear. Two heads of the first layer are therefore started that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

LOOK_BACK = (1, 2)
# Large enough that a neighbour of the wanted token gets a twentieth of its weight (distance 1).
_LOOK_BACK_GAIN = 0.53
_NOISE_KEPT = 0.3


@dataclass(frozen=True)
class DecoderRecipe:
    """Size and training of the toy decoder.

    Attributes:
        width: of the residual stream.
        num_layers: transformer blocks.
        num_heads: of attention.
        ffn_width: inner width of the gated feed-forward part.
        rope_theta: small, since contexts are short; 10,000 learns three times slower.
        init_std: of all weights; the usual .02 learns three times slower at this width.
        recall_steps: steps of bare look-ups and copies.
        mixed_steps: steps of scenes and drills, most about telling two things apart.
        order_steps: the same, most about which of two comes first.
        batch_size: texts a step.
        recall_lr: constant after the warm-up.
        mixed_lr: falls linearly to 0.
        order_lr: falls linearly to 0.
        warmup_steps: of every stage.
        drill_share: of drills among the mixed texts, at the beginning and from the middle on;
            the second holds for the last stage.
        num_scenes: scenes the texts are about.
        probe_every: steps between points of the curve.
        probe_texts: held-out texts of each kind for such a point.
    """

    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    ffn_width: int = 352
    rope_theta: float = 200.0
    init_std: float = 0.06
    recall_steps: int = 500
    mixed_steps: int = 3500
    order_steps: int = 1500
    batch_size: int = 32
    recall_lr: float = 3e-3
    mixed_lr: float = 2.5e-3
    order_lr: float = 1.5e-3
    warmup_steps: int = 50
    drill_share: tuple[float, float] = (0.6, 0.25)
    num_scenes: int = 20_000
    probe_every: int = 350
    probe_texts: int = 50


DEFAULT_RECIPE = DecoderRecipe()


def build_decoder(recipe: DecoderRecipe, *, vocab_size: int) -> LlamaForCausalLM:
    """Build the untrained model from torch's global random state."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.width,
        intermediate_size=recipe.ffn_width,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        max_position_embeddings=512,
        initializer_range=recipe.init_std,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    look_back(model, distances=LOOK_BACK)
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM, *, distances: Sequence[int]) -> None:
    """Start heads of the first layer so that each attends a fixed number of tokens back.

    All embeddings get a direction in common. Query and key of a head read that direction alone;
    they differ by the angle rotary positions turn in `distance` tokens, so their product is
    largest just there. For distances (1, 2) the second of the heads gives position 9 about .7 to
    token 7 and .3 to token 8.

    Args:
        model: changed in place.
        distances: tokens to look back, one for each of the first heads.
    """
    embedding = model.model.embed_tokens.weight
    spread, width = embedding.std(), embedding.shape[1]
    common = torch.randn(width)
    common /= common.norm()
    embedding += spread * width**0.5 * common
    frequencies = model.model.rotary_emb.inv_freq
    attention = model.model.layers[0].self_attn
    for head, distance in enumerate(distances):
        rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        turned = torch.cat([(frequencies * distance).cos(), -(frequencies * distance).sin()])
        straight = torch.cat([torch.ones_like(frequencies), torch.zeros_like(frequencies)])
        for projection, pattern in ((attention.q_proj, turned), (attention.k_proj, straight)):
            projection.weight[rows] *= _NOISE_KEPT
            projection.weight[rows] += _LOOK_BACK_GAIN * pattern[:, None] * common
