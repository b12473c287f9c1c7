"""Where the published files can be had; what `video-llama weights get NAME` knows by name.

Sizes and checksums are asked of the servers at the time: the hub publishes a SHA-256 for every
large file, Google Cloud Storage an MD5; Meta's and Google Drive's servers publish none.
Sources: the READMEs of DAMO-NLP-SG/Video-LLaMA, salesforce/LAVIS, Vision-CAIR/MiniGPT-4,
facebookresearch/ImageBind and lm-sys/FastChat.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

BLIP2 = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2"
DRIVE = "https://drive.google.com/uc?export=download&id="
SERIES = "hf://DAMO-NLP-SG/Video-LLaMA-Series"
LLAMA_TERMS = "LLaMA licence, research only"
LLAMA2_TERMS = "LLaMA 2 Community License"
IMAGEBIND_TERMS = "CC BY-NC-SA 4.0"
REPOSITORY_TERMS = "as its repository says"


@dataclass(frozen=True)
class Source:
    """One published file or folder.

    Attributes:
        where: address, or name of the hub.
        file: the name it has in run files.
        key: of a preset, where the file belongs.
        terms: what binds its use, in short.
        then: what is left to do after it was fetched, "" for nothing.
    """

    where: str
    file: str
    key: str
    terms: str
    then: str = ""


def _series(file: str, *, key: str = "ckpt") -> Source:
    return Source(f"{SERIES}/{file}", file, key, LLAMA_TERMS)


def _second_generation(size: str, stage: str) -> Source:
    name = f"Video-LLaMA-2-{size}-{stage}"
    return Source(
        f"hf://DAMO-NLP-SG/{name}", name, "released", f"{LLAMA2_TERMS}; {IMAGEBIND_TERMS}"
    )


def _delta(size: str) -> Source:
    name = f"vicuna-{size}-delta-v0"
    then = (
        f"merge it with LLaMA: video-llama weights merge-delta --base LLAMA --delta {name} "
        f"--target ckpt/vicuna-{size}"
    )
    return Source(f"hf://lmsys/{name}", name, "llama_model", LLAMA_TERMS, then=then)


def _chat(size: str) -> Source:
    name = f"llama-2-{size}-chat-hf"
    folder = f"hf://DAMO-NLP-SG/Video-LLaMA-2-{size.upper()}-Finetuned/{name}"
    return Source(folder, name, "llama_model", LLAMA2_TERMS)


def _language_bind(name: str, *, key: str) -> Source:
    terms = f"{LLAMA2_TERMS}; {REPOSITORY_TERMS}" if key == "released" else REPOSITORY_TERMS
    return Source(f"hf://LanguageBind/{name}", name, key, terms)


SOURCES = {
    "eva_vit_g": Source(f"{BLIP2}/eva_vit_g.pth", "eva_vit_g.pth", "vit_model", REPOSITORY_TERMS),
    "blip2_pretrained_flant5xxl": Source(
        f"{BLIP2}/blip2_pretrained_flant5xxl.pth",
        "blip2_pretrained_flant5xxl.pth",
        "q_former_model",
        REPOSITORY_TERMS,
    ),
    "imagebind_huge": Source(
        "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
        "imagebind_huge.pth",
        "imagebind_ckpt_path",
        IMAGEBIND_TERMS,
    ),
    "pretrained_minigpt4": Source(
        f"{DRIVE}1a4zLvaiDBr-36pasffmgpvH5P7CKmpze",
        "pretrained_minigpt4.pth",
        "llama_proj_model",
        REPOSITORY_TERMS,
    ),
    "pretrained_minigpt4_7b": Source(
        f"{DRIVE}1RY9jV0dyqLX-o38LrumkKRh6Jtaop58R",
        "pretrained_minigpt4_7b.pth",
        "llama_proj_model",
        REPOSITORY_TERMS,
    ),
    "vicuna-7b-delta-v0": _delta("7b"),
    "vicuna-13b-delta-v0": _delta("13b"),
    "llama-2-7b-chat-hf": _chat("7b"),
    "llama-2-13b-chat-hf": _chat("13b"),
    "pretrain-vicuna7b-v2": _series("pretrain_vicuna7b-v2.pth"),
    "finetune-vicuna7b-v2": _series("finetune-vicuna7b-v2.pth"),
    "pretrain-vicuna13b": _series("pretrain-vicuna13b.pth"),
    "finetune-vicuna13b-v2": _series("finetune-vicuna13b-v2.pth"),
    "pretrain-ziya13b-zh": _series("pretrain-ziya13b-zh.pth"),
    "finetune-ziya13b-zh": _series("finetune-ziya13b-zh.pth"),
    "pretrain-billa7b-zh": _series("pretrain-billa7b-zh.pth"),
    "finetune-billa7b-zh": _series("finetune-billa7b-zh.pth"),
    "pretrain_vicuna7b_audiobranch": _series("pretrain_vicuna7b_audiobranch.pth", key="ckpt_2"),
    "finetune_vicuna7b_audiobranch": _series("finetune_vicuna7b_audiobranch.pth", key="ckpt_2"),
    "Video-LLaMA-2-7B-Pretrained": _second_generation("7B", "Pretrained"),
    "Video-LLaMA-2-7B-Finetuned": _second_generation("7B", "Finetuned"),
    "Video-LLaMA-2-13B-Pretrained": _second_generation("13B", "Pretrained"),
    "Video-LLaMA-2-13B-Finetuned": _second_generation("13B", "Finetuned"),
    "Video-LLaVA-7B": _language_bind("Video-LLaVA-7B", key="released"),
    "Video-LLaVA-7B-hf": _language_bind("Video-LLaVA-7B-hf", key="released"),
    "LanguageBind_Image": _language_bind("LanguageBind_Image", key="image_tower"),
    "LanguageBind_Video_merge": _language_bind("LanguageBind_Video_merge", key="video_tower"),
}
"""By the name that `weights get` takes."""


def source_of(path: str, *, key: str) -> Source | None:
    """Return the published file that a run file asks for.

    Args:
        path: where it would lie; its last name may say which file it is.
        key: of the model section; says it where only one published file belongs there.
    """
    name = PurePath(path).name
    named = [source for source in SOURCES.values() if source.file == name]
    of_key = [source for source in SOURCES.values() if source.key == key]
    found = named or (of_key if len(of_key) == 1 else [])
    return found[0] if found else None
