"""Modules of the vision transformers of CLIP, SigLIP and LanguageBind; registers nothing itself.

Follows `CLIPVisionModel` and `SiglipVisionModel` of transformers, whose parameter names the
published files have (`pre_layrnorm` is spelt so there). A trunk ends at one of its inner layers:
what lies behind it, the last norm and the pooling are never built.

Shapes: K frames, N tokens a frame, D width, A attention heads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.common.types import Features
from video_llama.common.weights import KeyMap
from video_llama.models.encoders.base import low_precision
from video_llama.models.encoders.vit import VitConfig


def quick_gelu(hidden: Tensor) -> Tensor:
    """Approximate GELU by a sigmoid, as openai's CLIP does."""
    return hidden * torch.sigmoid(1.702 * hidden)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
}
"""By the names of transformers; gelu is exact, the other two are approximations of it."""


class Embeddings(nn.Module):
    """Patches of frames with their positions, behind a class token if the family has one."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        has_class = config.traits.has_class_token
        self.patch_embedding = nn.Conv2d(
            3, config.width, config.patch_size, stride=config.patch_size, bias=not has_class
        )
        if has_class:
            self.class_embedding = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.position_embedding = nn.Embedding(int(has_class) + config.side**2, config.width)
        nn.init.normal_(self.position_embedding.weight, std=0.02)

    def forward(self, frames: Tensor) -> Tensor:
        """Turn float[K, 3, H, W] into float[K, N, D]."""
        tokens_KND = self.patch_embedding(frames).flatten(2).mT.float()
        if hasattr(self, "class_embedding"):
            class_K1D = self.class_embedding.expand(len(tokens_KND), 1, -1)
            tokens_KND = torch.cat([class_K1D, tokens_KND], dim=1)
        return tokens_KND + self.position_embedding.weight


class Attention(nn.Module):
    """Every token of a row reads every other; the projections are four, as published."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor, seen: Tensor | None = None) -> Tensor:
        """Map float[K, N, D]; bool[K, N, N] says which tokens each may read, None is all."""
        query, key, value = (
            project(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if seen is not None:
            seen = seen[:, None]
        read_KANd = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.out_proj(read_KANd.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation or config.traits.activation]
        self.fc1 = nn.Linear(config.width, config.ffn_width)
        self.fc2 = nn.Linear(config.ffn_width, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map float[K, N, D]."""
        return self.fc2(self.activation(self.fc1(hidden)))


class Layer(nn.Module):
    """Pre-norm transformer layer over the tokens of each frame."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.width, num_heads=config.num_heads)
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.traits.norm_eps)
        self.mlp = Mlp(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.traits.norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map float[K, N, D]."""
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        return hidden + self.mlp(self.layer_norm2(hidden))


class VitTrunk(nn.Module):
    """Embeddings and layers, up to the one whose output is used.

    Args:
        config: sizes.
        layer_type: class of the layers, built from the config.
    """

    def __init__(self, config: VitConfig, *, layer_type: type[nn.Module] = Layer) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        if config.traits.has_class_token:
            self.pre_layrnorm = nn.LayerNorm(config.width, eps=config.traits.norm_eps)
        layers = nn.ModuleList(layer_type(config) for _ in range(config.num_layers))
        self.encoder = nn.ModuleDict({"layers": layers})
        self._dtype = getattr(torch, config.dtype)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.to(self._dtype)

    def run(self, frames: Tensor, *more: object) -> Tensor:
        """Turn float[K, 3, H, W] into float32[K, N, D]; layers are also given what follows."""
        with low_precision(self._dtype, device=frames.device):
            hidden_KND = self.embeddings(frames)
            if self.config.traits.has_class_token:
                hidden_KND = self.pre_layrnorm(hidden_KND)
            for layer in self.repeated_layers():
                hidden_KND = layer(hidden_KND, *more)
        return hidden_KND[:, -(self.config.num_prefix + self.config.side**2) :].float()

    def features(self, tokens: Tensor, *, mask: Tensor) -> Features:
        """Say what float[M, T, N, D] tokens of bool[M, T] frames are."""
        return Features(
            tokens=tokens,
            mask=mask[..., None].expand(tokens.shape[:3]),
            grid=(self.config.side, self.config.side),
            num_prefix=self.config.num_prefix,
        )

    def repeated_layers(self) -> list[nn.Module]:
        """Return the layers in their order."""
        return list(self.encoder["layers"].children())

    def key_map(self) -> KeyMap:
        """Return the table from published names, with or without `vision_model.`, to ours."""
        return self.config.key_map()
