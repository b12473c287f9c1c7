"""Tiny CLIP trunks with random weights, and transformers' own with the same."""

from __future__ import annotations

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

SIZES = {"width": 32, "depth": 3, "num_heads": 4, "ffn_width": 48, "patch_size": 4}


def randomised(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """Give every parameter, norms and biases among them, random values."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module.eval()


def clip_twin(*, image_size: int = 12, activation: str = "quick_gelu") -> CLIPVisionModel:
    """Return transformers' CLIP trunk of the same sizes."""
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=image_size,
        patch_size=4,
        hidden_act=activation,
    )
    return randomised(CLIPVisionModel(config))


def hidden_states(twin: nn.Module, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return what stands before the first layer of a twin and behind each."""
    with torch.no_grad():
        return twin(pixel_values=frames, output_hidden_states=True).hidden_states
