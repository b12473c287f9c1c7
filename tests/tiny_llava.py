"""Video-LLaVA at tiny size with random weights: its directories in every layout, and models of it.

Names are written out here a second time, as published, so that the tables are held against them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

from video_llama.common.schema import ModelConfig
from video_llama.common.sections import parse_model

WORDS, ROWS = 50, 64
"""Of the text vocabulary, and of the tables of transformers' port, which are longer."""
IMAGE_ID, VIDEO_ID, PAD_ID = 50, 51, 52
WIDTH, LAYERS, HIDDEN, FRAMES, SIDE = 16, 3, 24, 4, 16
TOKENS = 4
"""Patches of a picture."""

LLAMA: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
VISION: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
    "projection_dim": 8,
}
KEYS = (
    *("released", "llama_model", "image_tower", "video_tower", "mm_projector"),
    *("lora_bundle", "where_from"),
)
"""Of the presets, beside the fields every model has."""


@functools.cache
def port() -> VideoLlavaForConditionalGeneration:
    """Return the model of transformers at the sizes of this file."""
    return port_of(VISION, LLAMA, num_frames=FRAMES)


def port_of(
    vision: Mapping[str, Any], llama: Mapping[str, Any], *, num_frames: int
) -> VideoLlavaForConditionalGeneration:
    """Return the model of transformers, with weights large enough for everything to matter."""
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2
    config = VideoLlavaConfig(
        vision_config=dict(vision),
        text_config={"model_type": "llama", "vocab_size": ROWS, **llama},
        image_token_index=IMAGE_ID,
        video_token_index=VIDEO_ID,
        image_seq_length=tokens,
        video_seq_length=num_frames * (tokens + 1),
    )
    model = VideoLlavaForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = (
            name.endswith("norm.weight") or "layrnorm.weight" in name or "norm1.weight" in name
        )
        parameter.data = noise * 0.2 + float(is_norm)
    return model.eval()


def original_name(name: str) -> str:
    """Return the name in the original directory of what transformers has in memory."""
    for modality in ("image", "video"):
        prefix = f"model.{modality}_tower."
        if name.startswith(prefix):
            return f"{prefix}{modality}_tower.{name.removeprefix(prefix)}"
    for ours, theirs in (("linear_1", "0"), ("linear_2", "2")):
        name = name.replace(f"model.multi_modal_projector.{ours}", f"model.mm_projector.{theirs}")
    return name.replace("model.language_model.", "model.")


def hub_name(name: str) -> str:
    """Return the name in the -hf directory of what transformers has in memory."""
    if name.startswith("lm_head"):
        return f"language_model.{name}"
    name = name.removeprefix("model.")
    for modality in ("image", "video"):
        name = name.replace(f"{modality}_tower.", f"{modality}_tower.vision_model.")
    return name.replace("language_model.", "language_model.model.")


def temporal() -> dict[str, Tensor]:
    """Return the temporal blocks of the video tower, by the original names."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"temporal_embedding": (1, FRAMES, WIDTH)}
    shapes |= {f"temporal_layer_norm1.{kind}": (WIDTH,) for kind in ("weight", "bias")}
    for part in ("q", "k", "v", "out"):
        shapes[f"temporal_attn.{part}_proj.weight"] = (WIDTH, WIDTH)
        shapes[f"temporal_attn.{part}_proj.bias"] = (WIDTH,)
    return {
        f"model.video_tower.video_tower.encoder.layers.{layer}.{name}": torch.randn(
            shape, generator=generator
        )
        for layer in range(LAYERS)
        for name, shape in shapes.items()
    }


def original_state() -> dict[str, Tensor]:
    """Return the tensors of an original directory, buffers of old releases among them."""
    state = {original_name(name): tensor for name, tensor in port().state_dict().items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = state[name][:WORDS]
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6),
        "model.image_tower.image_tower.embeddings.position_ids": torch.arange(TOKENS + 1)[None],
        "model.video_tower.video_tower.embeddings.position_ids": torch.arange(TOKENS + 1)[None],
    }
    return {**state, **temporal(), **buffers}


def hub_state() -> dict[str, Tensor]:
    """Return the tensors of an -hf directory."""
    return {hub_name(name): tensor for name, tensor in port().state_dict().items()}


ORIGINAL_CONFIG: dict[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "vocab_size": WORDS,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    **LLAMA,
    "mm_hidden_size": WIDTH,
    "mm_image_tower": "LanguageBind/LanguageBind_Image",
    "mm_video_tower": "LanguageBind/LanguageBind_Video_merge",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "image_aspect_ratio": "pad",
}


def write_original(folder: Path, *, shards: int = 1, suffix: str = ".safetensors") -> Path:
    """Write an original directory, whole or in shards."""
    write_state(folder, original_state(), shards=shards, suffix=suffix)
    (folder / "config.json").write_text(json.dumps(ORIGINAL_CONFIG))
    return folder


def write_hub(folder: Path, *, shards: int = 1) -> Path:
    """Write an -hf directory."""
    write_state(folder, hub_state(), shards=shards)
    config = port().config.to_dict()
    del config["vision_config"]["hidden_act"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_transformers5(folder: Path, **_: Any) -> Path:
    """Let transformers write a directory."""
    port().save_pretrained(folder)
    return folder


WRITERS: dict[str, Callable[..., Path]] = {
    "original": write_original,
    "hf": write_hub,
    "transformers5": write_transformers5,
}


def write_state(
    folder: Path, state: Mapping[str, Tensor], *, shards: int = 1, suffix: str = ".safetensors"
) -> None:
    """Write tensors as Hugging Face does."""
    folder.mkdir(parents=True)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = list(state)
    index = {}
    for number in range(shards):
        whole = f"{stem}{suffix}"
        file = whole if shards == 1 else f"{stem}-{number + 1:05d}-of-{shards:05d}{suffix}"
        part = {name: state[name].contiguous() for name in names[number::shards]}
        index |= dict.fromkeys(part, file)
        if suffix == ".safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
    if shards > 1:
        text = json.dumps({"metadata": {}, "weight_map": index})
        (folder / f"{stem}{suffix}.index.json").write_text(text)


def write_languagebind(folder: Path) -> Path:
    """Write LanguageBind's video tower alone, as LanguageBind_Video_merge is published."""
    prefix = "model.video_tower.video_tower."
    state = {
        f"vision_model.{name.removeprefix(prefix)}": tensor
        for name, tensor in original_state().items()
        if name.startswith(prefix)
    }
    beside = {"visual_projection.weight": torch.ones(8, WIDTH), "logit_scale": torch.tensor(1.0)}
    beside["text_model.final_layer_norm.weight"] = torch.ones(4)
    write_state(folder, {**state, **beside})
    (folder / "config.json").write_text(json.dumps({"model_type": "LanguageBindVideo"}))
    return folder


def tree(directory: Path | str | None = None, *, temporal_attention: bool = True) -> dict[str, Any]:
    """Return a `model` section with the wiring of the presets.

    Args:
        directory: stands for everything.
        temporal_attention: the original's towers; without, those of transformers' port.
    """
    place = None if directory is None else str(directory)
    sizes = {"width": WIDTH, "depth": LAYERS, "num_heads": 2, "ffn_width": 32}
    sizes |= {"image_size": SIDE, "patch_size": 8}
    sizes["activation"] = "gelu" if temporal_attention else "quick_gelu"
    image = {"type": "clip_vit", "weights": place, **sizes}
    video = {"type": "languagebind", "weights": place, **sizes, "num_frames": FRAMES}
    video |= {"temporal_attention": temporal_attention, "num_positions": FRAMES}
    if temporal_attention:
        image |= {"resize": "pad_square", "filter": "bicubic"}
    else:
        video["filter"] = "bicubic_smooth"
    projection = {"type": "mlp", "weights": place, "width": HIDDEN}
    words = WORDS if temporal_attention else ROWS
    return {
        "arch": "video_llava",
        "model_type": "tiny",
        "template": "vicuna_v1",
        "released": place,
        "llama_model": place,
        "image_tower": place,
        "video_tower": place,
        "mm_projector": place,
        "branches": {
            "image": {"media": ["image"], "encoder": image, "stages": {"projection": projection}},
            "video": {
                "media": ["video"],
                "encoder": video,
                "stages": {"projection": {"share": "image.projection"}},
            },
        },
        "decoder": {
            "type": "causal_lm",
            "weights": place,
            "architecture": {"model_type": "llama", "vocab_size": words, **LLAMA},
        },
    }


def typed(node: Mapping[str, Any]) -> ModelConfig:
    """Parse a section that is right."""
    problems: list[str] = []
    config = parse_model(node, preset_keys=set(KEYS), problems=problems)
    assert config is not None, problems
    return config
