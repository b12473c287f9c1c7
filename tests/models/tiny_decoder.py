"""A decoder of two tiny layers with random weights, and prompts for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from video_llama.common.generation import Prompt
from video_llama.common.schema import PartConfig
from video_llama.models.decoders.causal_lm import CausalLM

VOCAB, WIDTH, CONTEXT, END = 40, 16, 96, 2
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "eos_token_id": END,
    "pad_token_id": 0,
}


def decoder_of(*, dtype: str = "float32", **architecture: Any) -> CausalLM:
    """Build the decoder; weights are large enough for every position to matter."""
    config = CausalLM.Config(architecture={**LLAMA, **architecture}, dtype=dtype)
    decoder = CausalLM(PartConfig("causal_lm", config))
    generator = torch.Generator().manual_seed(0)
    for parameter in decoder.parameters():
        parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.3).to(
            parameter.dtype
        )
    return decoder.eval()


def spread_decoder(vocabulary: int, seed: int, *, context: int) -> CausalLM:
    """Build one of a single narrow layer whose large weights spread its answers."""
    architecture = {
        **LLAMA,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "pad_token_id": END,
    }
    decoder = CausalLM(PartConfig("causal_lm", CausalLM.Config(architecture=architecture)))
    generator = torch.Generator().manual_seed(seed)
    for parameter in decoder.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return decoder.eval().requires_grad_(False)


def clip(number: int, *, size: int = 3) -> Tensor:
    """Make the tokens of a medium."""
    return torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(number))


def prompt_of(*parts: int | str) -> Prompt:
    """Lay out ids of text, and media by name: `prompt_of(1, "a", 7)`; equal names, equal clips."""
    ids: list[int] = []
    slots: list[int] = []
    media: list[Tensor] = []
    names = [part for part in parts if isinstance(part, str)]
    for part in parts:
        if isinstance(part, str):
            media.append(clip(ord(part), size=2 + ord(part) % 3))
            ids += [0] * len(media[-1])
            slots += [len(media)] * len(media[-1])
        else:
            ids.append(part)
            slots.append(0)
    return Prompt(ids, slots, media, names)
