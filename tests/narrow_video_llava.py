"""The shipped preset of Video-LLaVA, narrow and shallow: the wiring and the numbers of tokens are
those of full size, the weights are random and fit into a test.
"""

from __future__ import annotations

from pathlib import Path

import torch
from released_decoders import TOKENIZER, WORDS
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from video_llama.common.config import load_preset
from video_llama.common.schema import ModelConfig
from video_llama.models.video_llm import VideoLLM

TOWER = {"width": 16, "depth": 2, "num_heads": 2, "ffn_width": 16, "dtype": "float32"}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": WORDS,
}
OPTIONS = [
    *(
        f"model.branches.{branch}.encoder.{key}={value}"
        for branch in ("image", "video")
        for key, value in TOWER.items()
    ),
    *(f"model.decoder.architecture.{key}={value}" for key, value in LLAMA.items()),
    "model.decoder.dtype=float32",
]
"""Overrides of a run file or preset."""


def config_of(*options: str, model_type: str = "vicuna7b") -> ModelConfig:
    """Return the config of a preset of this size."""
    return load_preset("video_llava", model_type, options=[*OPTIONS, *options])


def random_model(*options: str) -> VideoLLM:
    """Return a model in eval mode whose every part makes a difference."""
    torch.manual_seed(0)
    model = VideoLLM(config_of(*options)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_(0.2 * noise + float(is_norm))
    return model


def write_files(folder: Path) -> list[str]:
    """Write decoder, towers and projector as they are published; return what names them."""
    model = random_model()
    llama = LlamaForCausalLM(LlamaConfig(**LLAMA, max_position_embeddings=4096, rms_norm_eps=1e-5))
    llama.load_state_dict(model.decoder.model.state_dict())
    llama.save_pretrained(folder / "llama")
    (folder / "llama" / "tokenizer.model").symlink_to(TOKENIZER)
    files = {"llama_model": folder / "llama"}
    for branch in ("image", "video"):
        state = model.branches[branch].encoder.state_dict()
        files[f"{branch}_tower"] = folder / f"{branch}.safetensors"
        save_file(
            {f"vision_model.{name}": tensor.contiguous() for name, tensor in state.items()},
            files[f"{branch}_tower"],
        )
    files["mm_projector"] = folder / "mm_projector.bin"
    projector = model.branches["image"].stages["projection"].layers.state_dict()
    torch.save(
        {f"model.mm_projector.{name}": tensor for name, tensor in projector.items()},
        files["mm_projector"],
    )
    return [*OPTIONS, *(f"model.{key}={path}" for key, path in files.items())]
