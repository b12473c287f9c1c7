"""The published system at tiny size: its files, and models built from them as a preset would."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from video_llama.common.schema import ModelConfig
from video_llama.common.sections import parse_model
from video_llama.models.loading import build_model
from video_llama.models.released.video_llama import published_files
from video_llama.models.video_llm import VideoLLM

FILES = Path(__file__).parent / "goldens" / "models"
QFORMER = {"type": "qformer", "width": 64, "num_heads": 4, "ffn_width": 128}
ROLES = {
    "vit_model": "eva_vit_g_tiny.pth",
    "q_former_model": "blip2_pretrained_tiny.pth",
    "llama_proj_model": "pretrained_minigpt4_tiny.pth",
    "imagebind_ckpt_path": "imagebind_huge.pth",
}
Trunk = Literal["audio", "vision"]


def tree(
    *,
    trunk: Trunk = "audio",
    branches: Sequence[str] = ("video", "audio"),
    image_size: int = 56,
    learn: bool = False,
    dropout: float = 0.1,
) -> dict[str, Any]:
    """Return a `model` section.

    Args:
        trunk: of ImageBind; the vision trunk of a lone audio branch takes pictures, not sound.
        branches: what is built.
        image_size: of both encoders of pictures.
        learn: let Q-Former and projection of every branch learn, as the published recipes do.
        dropout: of these Q-Formers.
    """
    files = {role: str(FILES / name) for role, name in ROLES.items()}
    trained = {"trainable": learn}
    encoder = {"type": "eva_vit_g", "weights": files["vit_model"], "image_size": image_size}
    encoder |= {"width": 48, "depth": 3, "num_heads": 4}
    image_qformer = {"weights": files["q_former_model"], "num_queries": 8, "num_layers": 4}
    image_qformer |= {"cross_attention_frequency": 2, "over": "step"}
    video_qformer = {"num_queries": 6, "num_layers": 2, "num_positions": 32, "dropout": dropout}
    video = {
        "media": ["video", "image"],
        "encoder": encoder,
        "stages": {
            "ln_vision": {"type": "layer_norm", "weights": files["q_former_model"]},
            "image_qformer": QFORMER | image_qformer,
            "video_qformer": QFORMER | video_qformer | trained,
            "projection": {"type": "projection", "width": 64} | trained,
        },
    }
    if not learn:
        video["stages"]["projection"]["weights"] = files["llama_proj_model"]
    imagebind = {"type": "imagebind", "weights": files["imagebind_ckpt_path"], "trunk": trunk}
    imagebind |= {"out_width": 24, "image_size": image_size}
    imagebind |= {"audio_width": 64, "audio_depth": 2, "audio_num_heads": 4}
    imagebind |= {"vision_width": 32, "vision_depth": 2, "vision_num_heads": 4}
    audio_qformer = {"num_queries": 4, "num_layers": 2, "num_positions": 8, "dropout": dropout}
    audio = {
        "media": ["audio"],
        "encoder": imagebind,
        "stages": {
            "audio_qformer": QFORMER | audio_qformer | trained,
            "projection": {"type": "projection", "width": 64} | trained,
        },
    }
    if trunk == "vision" and "video" not in branches:
        audio["media"] = video["media"]
    both = {"video": video, "audio": audio}
    return files | {
        "arch": "video_llama",
        "model_type": "tiny",
        "template": "vicuna_v0_released",
        "branches": {name: both[name] for name in branches},
        "decoder": {"type": "causal_lm", "weights": str(FILES / "llama")},
        "ckpt": str(FILES / "vl_branch.pth") if "video" in branches else None,
        "ckpt_2": str(FILES / "al_branch.pth") if "audio" in branches else None,
        "compat": "released",
    }


def typed(node: Mapping[str, Any]) -> ModelConfig:
    """Parse a section that is right."""
    problems: list[str] = []
    config = parse_model(node, preset_keys=set(ROLES), problems=problems)
    assert config is not None, problems
    return config


@functools.lru_cache
def shared_model(**choices: Any) -> VideoLLM:
    """Return a model in eval mode that many tests look at and none changes; see `tree`."""
    return build_model(typed(tree(**choices))).model.eval()


def published_names(model: VideoLLM) -> dict[str, str]:
    """Return the published name of every parameter that learns."""
    inverse = published_files(model.config)["ckpt"].key_map.invert()
    names = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            published = inverse.translate(name)
            assert published is not None, name
            names[name] = published
    return names
