"""What was released of Video-LLaMA: for which decoder, trained on what, hearing or not.

From the README of DAMO-NLP-SG/Video-LLaMA and the model pages DAMO-NLP-SG/Video-LLaMA-Series and
DAMO-NLP-SG/Video-LLaMA-2-{7B,13B}-{Pretrained,Finetuned} on huggingface.co.
"""

from __future__ import annotations

from dataclasses import dataclass

CAPTIONS = "WebVid-2M captions, LLaVA-CC3M captions"
INSTRUCTIONS = "MiniGPT-4, LLaVA and VideoChat instructions"
CHINESE = "VideoChat instructions, machine-translated into Chinese"

ENCODERS = {
    "video": ("eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"),
    "audio": ("imagebind_huge.pth",),
}
"""What a branch needs besides its own file and the decoder."""


@dataclass(frozen=True)
class Release:
    """One published file of trained weights.

    Attributes:
        file: its name.
        title: generation, branch and stage, for people.
        branch: "video" or "audio".
        decoder: it was trained for.
        preset: that fits it.
        data: it was trained on.
        audio_file: the file that lets this release hear; "" if none was published.
    """

    file: str
    title: str
    branch: str
    decoder: str
    preset: str
    data: str
    audio_file: str = ""


def _first(file: str, decoder: str, preset: str, *, data: str, audio_file: str = "") -> Release:
    branch = "audio" if file == audio_file else "video"
    stage = "pretrained" if file.startswith("pretrain") else "finetuned"
    title = f"Video-LLaMA, {branch} branch, {stage}"
    return Release(file, title, branch, decoder, preset, data=data, audio_file=audio_file)


def _second(branch: str, size: str, stage: str) -> Release:
    short = {"video": "VL", "audio": "AL"}
    names = {each: f"{prefix}_LLaMA_2_{size}_{stage}.pth" for each, prefix in short.items()}
    return Release(
        names[branch],
        f"Video-LLaMA-2, {branch} branch, {stage.lower()}",
        branch,
        f"LLaMA-2-{size}-chat",
        f"llama2_{size.lower()}",
        data=CAPTIONS if stage == "Pretrained" else INSTRUCTIONS,
        audio_file=names["audio"],
    )


VICUNA_7B, VICUNA_13B = "Vicuna-7B v0", "Vicuna-13B v0"
PRETRAINED_AUDIO = "pretrain_vicuna7b_audiobranch.pth"
FINETUNED_AUDIO = "finetune_vicuna7b_audiobranch.pth"

RELEASES = (
    _first(
        "pretrain_vicuna7b-v2.pth", VICUNA_7B, "vicuna7b",
        data=CAPTIONS, audio_file=PRETRAINED_AUDIO,
    ),
    _first(
        "finetune-vicuna7b-v2.pth", VICUNA_7B, "vicuna7b",
        data=INSTRUCTIONS, audio_file=FINETUNED_AUDIO,
    ),
    _first(
        PRETRAINED_AUDIO, VICUNA_7B, "vicuna7b", data=CAPTIONS, audio_file=PRETRAINED_AUDIO
    ),
    _first(
        FINETUNED_AUDIO, VICUNA_7B, "vicuna7b", data=INSTRUCTIONS, audio_file=FINETUNED_AUDIO
    ),
    _first("pretrain-vicuna13b.pth", VICUNA_13B, "vicuna13b", data=CAPTIONS),
    _first("finetune-vicuna13b-v2.pth", VICUNA_13B, "vicuna13b", data=INSTRUCTIONS),
    _first("pretrain-ziya13b-zh.pth", "Ziya-LLaMA-13B-v1", "ziya13b", data=CAPTIONS),
    _first("finetune-ziya13b-zh.pth", "Ziya-LLaMA-13B-v1", "ziya13b", data=CHINESE),
    _first("pretrain-billa7b-zh.pth", "BiLLa-7B-SFT", "billa7b", data=CAPTIONS),
    _first("finetune-billa7b-zh.pth", "BiLLa-7B-SFT", "billa7b", data=CHINESE),
    *(
        _second(branch, size, stage)
        for size in ("7B", "13B")
        for stage in ("Pretrained", "Finetuned")
        for branch in ("video", "audio")
    ),
)  # fmt: skip


def find_release(file: str) -> Release | None:
    """Return what is known of a file with this name; contents do not tell Vicuna from LLaMA-2."""
    return next((release for release in RELEASES if release.file.lower() == file.lower()), None)
