"""Tells from the names in a file of weights what the file is.

Names as in the code that wrote the files: salesforce/LAVIS (EVA ViT-g, BLIP-2),
facebookresearch/ImageBind, Vision-CAIR/MiniGPT-4, DAMO-NLP-SG/Video-LLaMA,
PKU-YuanGroup/Video-LLaVA, meta-llama/llama and Hugging Face transformers; and of systems that only
sound alike, so that they can be named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from video_llama.common.key_map import compiled


@dataclass(frozen=True)
class Kind:
    """What a file may be.

    Attributes:
        name: short, for machines.
        text: for people.
        marks: patterns of names; each must match some name in the file.
        keys: of the `model` section where such a file belongs; none for another system.
        branch: of the model that it fills, "" if none or several.
        advice: how it is used, said where it did not fit; "" if there is nothing to say.
    """

    name: str
    text: str
    marks: tuple[str, ...]
    keys: tuple[str, ...] = ()
    branch: str = ""
    advice: str = ""


NO_TEMPORAL = (
    "it has no temporal blocks: take model.model_type=vicuna7b_hf_compat, or name "
    "LanguageBind_Video_merge as model.video_tower"
)

CHECKPOINTS = ("ckpt", "ckpt_2")
KINDS = (
    Kind("run", "a checkpoint of this framework", ("branches.*.**",), CHECKPOINTS),
    Kind(
        "vl_and_al",
        "Video-LLaMA's vision and audio branch in one file",
        ("video_query_tokens", "audio_query_tokens"),
        CHECKPOINTS,
    ),
    Kind(
        "vl",
        "Video-LLaMA's vision branch (VL)",
        ("video_query_tokens", "video_Qformer.**"),
        ("ckpt",),
        branch="video",
    ),
    Kind(
        "al",
        "Video-LLaMA's audio branch (AL)",
        ("audio_query_tokens", "audio_Qformer.**"),
        ("ckpt_2",),
        branch="audio",
    ),
    Kind(
        "blip2",
        "BLIP-2's Q-Former with its queries (blip2_pretrained_flant5xxl.pth)",
        ("query_tokens", "Qformer.bert.**"),
        ("q_former_model",),
        branch="video",
    ),
    Kind(
        "llama_proj",
        "MiniGPT-4's projection (pretrained_minigpt4.pth)",
        ("llama_proj.weight",),
        ("llama_proj_model",),
        branch="video",
    ),
    Kind(
        "eva_vit_g",
        "the EVA ViT-g that BLIP-2 uses (eva_vit_g.pth)",
        ("patch_embed.proj.weight", "blocks.*.attn.q_bias", "blocks.*.attn.qkv.weight"),
        ("vit_model",),
        branch="video",
    ),
    Kind(
        "imagebind",
        "ImageBind (imagebind_huge.pth)",
        ("modality_trunks.**", "modality_preprocessors.**"),
        ("imagebind_ckpt_path",),
        branch="audio",
    ),
    Kind(
        "video_llama_3",
        "VideoLLaMA 3, another system (DAMO-NLP-SG/VideoLLaMA3)",
        ("**vision_encoder.**", "**mm_projector.**"),
    ),
    Kind(
        "video_llama_2",
        "VideoLLaMA 2, another system (DAMO-NLP-SG/VideoLLaMA2)",
        ("**mm_projector.readout.**",),
    ),
    Kind(
        "video_llava",
        "Video-LLaVA in its own layout, towers included",
        ("model.video_tower.video_tower.**", "model.mm_projector.*.weight", "model.layers.**"),
        ("released",),
    ),
    Kind(
        "video_llava_hf",
        "Video-LLaVA in the layout of transformers 4 (-hf)",
        ("video_tower.vision_model.**", "multi_modal_projector.**", "language_model.**"),
        ("released",),
        advice=NO_TEMPORAL,
    ),
    Kind(
        "video_llava_transformers5",
        "Video-LLaVA in the layout of transformers 5",
        ("**video_tower.**", "**multi_modal_projector.**", "**language_model.**"),
        ("released",),
        advice=NO_TEMPORAL,
    ),
    Kind(
        "llava",
        "a model of the LLaVA family, another system",
        ("**mm_projector.**", "**layers.*.self_attn.q_proj.weight"),
    ),
    Kind(
        "lora",
        "adapters (LoRA) as peft writes them",
        ("base_model.model.**.lora_A.weight",),
        ("lora_bundle",),
    ),
    Kind(
        "non_lora_trainables",
        "what learnt beside adapters (non_lora_trainables.bin)",
        ("base_model.model.**mm_projector.**",),
        ("mm_projector", "ckpt"),
    ),
    Kind(
        "mm_projector",
        "a projector of the LLaVA family, stage 1 (mm_projector.bin)",
        ("**mm_projector.**",),
        ("mm_projector", "ckpt"),
    ),
    Kind(
        "languagebind_video",
        "LanguageBind's video tower",
        ("**encoder.layers.*.temporal_attn.q_proj.weight",),
        ("video_tower",),
        branch="video",
    ),
    Kind(
        "clip_vit",
        "a picture tower of CLIP's or SigLIP's kind",
        ("**embeddings.patch_embedding.weight", "**encoder.layers.*.self_attn.q_proj.weight"),
        ("image_tower",),
        branch="image",
    ),
    Kind(
        "meta_llama",
        "LLaMA in Meta's own layout (consolidated.*.pth)",
        ("tok_embeddings.weight", "layers.*.attention.wq.weight"),
    ),
    Kind(
        "decoder",
        "a language model in Hugging Face's layout",
        ("model.layers.*.self_attn.q_proj.weight",),
        ("llama_model",),
    ),
)
"""Looked at in this order; what is more special stands before what is more general."""

MODEL_TYPES = {"videollama3": "video_llama_3", "videollama2": "video_llama_2"}
"""How `model_type` in a config.json begins in folders of other systems."""


def recognise(names: Iterable[str], *, model_type: str = "") -> Kind | None:
    """Return what a file with these names is, None if nobody knows.

    Args:
        names: of its tensors.
        model_type: of the config.json beside it, if there is one.
    """
    for start, name in MODEL_TYPES.items():
        if model_type.startswith(start):
            return next(kind for kind in KINDS if kind.name == name)
    every = list(names)
    for kind in KINDS:
        if all(any(compiled(mark).fullmatch(name) for name in every) for mark in kind.marks):
            return kind
    return None


def explain(names: Iterable[str], *, key: str) -> str:
    """Say where a file that did not fit belongs, as a line behind an error; "" if unknown.

    Args:
        names: of its tensors.
        key: of the `model` section it was given as.
    """
    kind = recognise(names)
    if kind is None:
        return ""
    advice = f"\n  {kind.advice}" if kind.advice else ""
    if key in kind.keys:
        return advice
    if not kind.keys:
        return f"\n  the file is {kind.text}; it cannot be used as model.{key}"
    where = " or ".join(_dotted(kind.keys))
    return f"\n  the file is {kind.text}; it belongs into {where}{advice}"


def _dotted(keys: Iterable[str]) -> list[str]:
    return [f"model.{key}" for key in keys]
