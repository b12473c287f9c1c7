"""Where the tensors of Video-LLaMA's published files go; tables only.

Names as in DAMO-NLP-SG/Video-LLaMA at 64888c0 (video_llama/models/video_llama.py), which saves
trained parameters together with every buffer. The decoder's directory is read by the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig
from video_llama.common.weights import Excuse, FileTable, KeyMap
from video_llama.models.bridges.qformer import published_names

VIDEO = "branches.video.stages"
AUDIO = "branches.audio.stages"

BLIP2 = (
    KeyMap(renames=(("ln_vision.*", f"{VIDEO}.ln_vision.*"),))
    .join(
        published_names(network="Qformer", queries="query_tokens").under(
            ours=f"{VIDEO}.image_qformer."
        ),
    )
    .join(
        KeyMap(
            renames=(),
            drops=(
                Excuse("t5_proj.*", "BLIP-2's map to T5"),
                Excuse("visual_encoder.**", "BLIP-2's copy of the encoder, read from its own file"),
            ),
        )
    )
)
"""`blip2_pretrained_flant5xxl.pth`."""

LLAMA_PROJ = KeyMap(renames=(("llama_proj.*", f"{VIDEO}.projection.linear.*"),))
"""`pretrained_minigpt4.pth`, `pretrained_minigpt4_7b.pth`."""

VIDEO_STAGES = LLAMA_PROJ.join(
    published_names(
        network="video_Qformer",
        queries="video_query_tokens",
        positions="video_frame_position_embedding.weight",
    ).under(ours=f"{VIDEO}.video_qformer.")
)

AUDIO_STAGES = KeyMap(renames=(("audio_llama_proj.*", f"{AUDIO}.projection.linear.*"),)).join(
    published_names(
        network="audio_Qformer",
        queries="audio_query_tokens",
        positions="audio_position_embedding.weight",
    ).under(ours=f"{AUDIO}.audio_qformer.")
)

BUFFERS = KeyMap(
    renames=(),
    drops=(
        Excuse("Qformer.bert.embeddings.position_ids", "a list of indices, not a weight"),
        Excuse("llama_model.**.rotary_emb.inv_freq", "rotary frequencies, computed by the decoder"),
        Excuse("audio_encoder.modality_preprocessors.text.mask", "buffer of ImageBind"),
        Excuse("audio_encoder.modality_postprocessors.*.1.log_logit_scale", "buffer of ImageBind"),
    ),
)
"""What the published runner saved besides trained parameters."""

IMAGEBIND_FILE = "imagebind_huge.pth"
"""In the directory that the published configs name."""

CHECKPOINT_BRANCHES = {"ckpt": "video", "ckpt_2": "audio"}
"""Which branch each key is for where both are built, as in the published eval configs."""


@registry.register_release("video_llama")
def published_files(config: ModelConfig) -> Mapping[str, FileTable]:
    """Return where the tensors of each published file go in a `VideoLLM`.

    Args:
        config: the typed `model` section; decides sizes, ImageBind's trunk and which branches are
            there.

    Returns:
        A table for every role of a file, by the preset's key: `vit_model`, `q_former_model`,
        `llama_proj_model`, `imagebind_ckpt_path`, `ckpt` and `ckpt_2`.
    """
    tables = {}
    if "video" in config.branches:
        tables["vit_model"] = _encoder_table(config, "video")
        tables["q_former_model"] = FileTable(
            BLIP2, parts=(f"{VIDEO}.ln_vision.", f"{VIDEO}.image_qformer.")
        )
        tables["llama_proj_model"] = FileTable(LLAMA_PROJ, parts=(f"{VIDEO}.projection.",))
    if "audio" in config.branches:
        table = _encoder_table(config, "audio")
        tables["imagebind_ckpt_path"] = replace(table, inside=IMAGEBIND_FILE)
    for key, branch in CHECKPOINT_BRANCHES.items():
        meant_for = f"branches.{branch}." if len(config.branches) > 1 else ""
        tables[key] = _checkpoint_table(config, meant_for=meant_for)
    return tables


def _encoder_table(config: ModelConfig, branch: str) -> FileTable:
    part = config.branches[branch].encoder
    ours = f"branches.{branch}.encoder."
    return FileTable(part.config.key_map().under(ours=ours), parts=(ours,))


def _checkpoint_table(config: ModelConfig, *, meant_for: str) -> FileTable:
    """Join the branches there are; a file of both leaves out the one that is not built."""
    video = VIDEO_STAGES if "video" in config.branches else _left_out(VIDEO_STAGES, "video")
    audio = AUDIO_STAGES if "audio" in config.branches else _left_out(AUDIO_STAGES, "audio")
    parts = (
        f"{VIDEO}.video_qformer.",
        f"{VIDEO}.projection.",
        f"{AUDIO}.audio_qformer.",
        f"{AUDIO}.projection.",
    )
    return FileTable(
        BUFFERS.join(video, audio),
        parts=tuple(part for part in parts if part.split(".")[1] in config.branches),
        may_be_partial=True,
        meant_for=meant_for,
    )


def _left_out(key_map: KeyMap, branch: str) -> KeyMap:
    """Return a map that drops what another one would rename."""
    reason = f"the model has no branch '{branch}'"
    drops = tuple(Excuse(published, reason) for published, _ in key_map.renames)
    return KeyMap(renames=(), drops=key_map.drops + drops)
