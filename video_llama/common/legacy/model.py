"""The model of an original run file: what several of its keys decide together.

Every function sets keys of ours; what cannot be had is a problem, what is had differently a note.
"""

from __future__ import annotations

import json
from pathlib import Path

from video_llama.common.hub import local_path
from video_llama.common.legacy.original import (
    AUDIO,
    CAPTIONS,
    FAMILIES,
    Q_FORMER_FILE,
    VIDEO,
    VIT_FILE,
    Original,
)

SIZES = {4096: "7b", 5120: "13b"}
"""`hidden_size` of the decoders the original was published with (Touvron et al. 2023, table 2)."""

PRESETS = {
    ("pretrain_vicuna", "7b"): "vicuna7b",
    ("pretrain_vicuna", "13b"): "vicuna13b",
    ("pretrain_llama_v2", "7b"): "llama2_7b",
    ("pretrain_llama_v2", "13b"): "llama2_13b",
}

PROMPT_FILE = "prompts/alignment_image.txt"
PLACEHOLDER = "<ImageHere>"
OPENING = f"<Image>{PLACEHOLDER}</Image>"
CAPTION_TEXTS = {
    "vicuna": ("###Human: {} ###Assistant: ", "###"),
    "llama_v2": ("[INST] <<SYS>>\n \n<</SYS>>\n\n{} [/INST] ", "</s>"),
}
"""Published `prompt_template` and `end_sym` of captions behind a prompt, by family."""

BARE_END = "\n"
"""`end_sym` of captions without a prompt, the original's default."""

CAPTION_LENGTH = 32
"""`max_txt_len` where an original does not set it."""

PROMPT_ROOM = 64
"""Positions of a caption's prompt, generously."""

CONVERSATION_LENGTH = 512
"""Tokens at which the original cuts every training conversation, whatever `max_txt_len` says."""

CHAT_LENGTH = 2048
"""Positions of a chat: the decoder's own, and a little more than the 2000 of the original's."""


def choose_preset(original: Original) -> None:
    """Find the preset by model type and the decoder's size, and compare the data sets' types."""
    key = "model.model_type"
    name = original.keys.get(key)
    if name is None:
        original.problems.append(f"{key}: missing, expected one of {', '.join(FAMILIES)}")
    elif name in FAMILIES:
        size = _size(original)
        if size is not None:
            original.ours[key] = PRESETS[name, size]
    elif " or " in str(name):
        original.problems.append(f"{key}: '{name}' leaves a choice open; keep one")
    else:
        original.ours[key] = name
    for dataset in original.datasets:
        key = f"datasets.{dataset}.model_type"
        kind = original.keys.get(key)
        if kind is not None and original.family is not None and kind != original.family:
            original.refuse(
                key, f"'{kind}', but model.model_type is '{name}'; expected '{original.family}'"
            )
    original.ours["model.compat"] = "released"


def _size(original: Original) -> str | None:
    """Read the decoder's size from its directory, or from the directory's name."""
    folder = str(original.keys.get("model.llama_model", "ckpt/vicuna-7b"))
    original.ours["model.llama_model"] = folder.rstrip("/")
    file = local_path(folder) / "config.json"
    if file.is_file():
        try:
            found = json.loads(file.read_text(encoding="utf-8")).get("hidden_size")
        except (ValueError, AttributeError):
            original.problems.append(f"model.llama_model: {file} is no JSON object")
            return None
        if found not in SIZES:
            original.problems.append(
                f"model.llama_model: {file} has hidden_size {found}, expected 4096 (7B) or 5120 "
                "(13B); for another decoder name a preset in model.model_type"
            )
        return SIZES.get(found)
    named = [size for size in SIZES.values() if size in folder.lower()]
    if len(named) == 1:
        original.notes.append(
            f"model.llama_model: there is no {file} to read the size from; taken as {named[0]} by "
            "its name"
        )
        return named[0]
    original.problems.append(
        f"model.llama_model: there is no {file}, and '{folder}' does not say 7b or 13b; put the "
        "decoder's folder there, or name a preset in model.model_type, e.g. vicuna7b"
    )
    return None


def choose_branches(original: Original) -> None:
    """Turn `equip_audio_branch` and the `frozen_*` flags into branches and what learns in them."""
    equipped = original.flag("model.equip_audio_branch", default=True)
    frozen_video = original.flag("model.frozen_video_Qformer", default=True)
    frozen_projection = original.flag("model.frozen_llama_proj", default=True)
    if not original.trains:
        if not equipped:
            original.ours[AUDIO] = None
        return
    if original.hears and not frozen_video:
        original.problems.append(
            "model.frozen_audio_Qformer: false beside frozen_video_Qformer: false; the original "
            "cannot train both (its audio branch gets no gradient); freeze one, or start from "
            "train_configs/audiovisual_stage3_joint.yaml"
        )
    elif original.hears and not equipped:
        original.problems.append(
            "model.frozen_audio_Qformer: false, but equip_audio_branch is false: there is nothing "
            "to train; set one of them to true"
        )
    elif original.hears:
        original.ours[VIDEO] = None
        original.ours["model.audio_branch_media"] = "video"
        original.ours[f"{AUDIO}.stages.audio_qformer.trainable"] = True
        original.ours[f"{AUDIO}.stages.projection.trainable"] = True
        return
    if original.flag("model.freeze_vit", default=True) is False:
        # Small updates would be rounded away in half precision.
        original.ours[f"{VIDEO}.encoder.dtype"] = "float32"
    original.ours[AUDIO] = None
    original.ours[f"{VIDEO}.stages.video_qformer.trainable"] = not frozen_video
    original.ours[f"{VIDEO}.stages.projection.trainable"] = not frozen_projection


def choose_texts(original: Original) -> None:
    """Turn prompts, end mark and lengths into prompts, template and `max_txt_len`."""
    if not original.trains:
        original.ours["model.max_txt_len"] = CHAT_LENGTH
        return
    _choose_tokenizer(original)
    captions = [name for name in original.datasets if name in CAPTIONS]
    prompts = _prompts(original)
    for name in captions if prompts else ():
        original.ours[f"datasets.{name}.prompts"] = prompts
        if name == "webvid":
            original.notes.append(
                "datasets.webvid: a prompt opens with <Video>, where the original has <Image>"
            )
    if captions and original.family is not None:
        _check_caption_texts(original, *CAPTION_TEXTS[original.family], prompted=bool(prompts))
    length = original.number("model.max_txt_len", default=CAPTION_LENGTH)
    if original.conversations:
        original.ours["model.max_txt_len"] = max(CONVERSATION_LENGTH, length)
        if length > CONVERSATION_LENGTH:
            original.notes.append(
                f"model.max_txt_len: {length} holds for conversations too, which the original "
                f"cuts at {CONVERSATION_LENGTH}"
            )
    else:
        room = PROMPT_ROOM if prompts else 0
        original.ours["model.max_txt_len"] = 1 + original.num_slots + room + length


def _prompts(original: Original) -> list[str] | str:
    """Return the prompts of captions; the published ones stand in the preset."""
    key = "model.prompt_path"
    name = str(original.keys.get(key) or "")
    if not name:
        return []
    if not Path(name).is_file():
        if name == PROMPT_FILE:
            return "${model.caption_prompts}"
        original.refuse(key, f"there is no {name}; the published prompts are '{PROMPT_FILE}'")
        return []
    lines = Path(name).read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if PLACEHOLDER in line]
    others = [line for line in lines if not line.startswith(OPENING)]
    if others or not lines:
        found = f"found {others[0]!r}" if others else "found no such line"
        original.refuse(key, f"{name}: expected lines that open with {OPENING}, {found}")
    return [line.removeprefix(OPENING).strip() for line in lines]


def _check_caption_texts(original: Original, template: str, end: str, *, prompted: bool) -> None:
    """Compare template and end mark with the published ones, which our templates hold."""
    found = original.keys.get("model.prompt_template")
    if prompted and found != template:
        if str(found).replace("\\n", "\n") != template:
            original.refuse(
                "model.prompt_template",
                f"{found!r}; only the published {template!r} goes with this decoder; another "
                "prompt is a template of its own, see docs/adding_a_part.md",
            )
        else:
            original.notes.append(
                "model.prompt_template: '\\n' in single quotes is no line feed in YAML, and the "
                "original trained on a backslash and an n; here it is a line feed"
            )
    expected = end if prompted else BARE_END
    found = original.keys.get("model.end_sym", BARE_END)
    if found != expected:
        original.refuse(
            "model.end_sym",
            f"{found!r}; captions {'behind a prompt' if prompted else 'without a prompt'} end in "
            f"{expected!r} with this decoder; another end is a template of its own, see "
            "docs/adding_a_part.md",
        )


def _choose_tokenizer(original: Original) -> None:
    """Take the data sets' tokenizer if it lies elsewhere than the decoder's."""
    folders = {
        name: str(folder).rstrip("/")
        for name in original.conversations
        if (folder := original.of(name, "tokenizer_name"))
    }
    if len(set(folders.values())) > 1:
        name, folder = list(folders.items())[-1]
        original.refuse(
            f"datasets.{name}.tokenizer_name",
            f"'{folder}', but another data set has '{next(iter(folders.values()))}'; a run has one",
        )
    elif folders:
        folder = next(iter(folders.values()))
        if folder != original.ours.get("model.llama_model"):
            original.ours["model.tokenizer"] = folder


def choose_files(original: Original) -> None:
    """Name the files of frozen parts, and the checkpoints: the audio branch alone has its own."""
    original.ours.setdefault("model.vit_model", VIT_FILE)
    original.ours.setdefault("model.q_former_model", Q_FORMER_FILE)
    first, second = (original.keys.get(f"model.{key}") for key in ("ckpt", "ckpt_2"))
    if original.hears and second:
        if first:
            original.notes.append(
                f"model.ckpt: '{first}' is left out, only the audio branch trains"
            )
        first, second = second, None
    for key, path in (("ckpt", first), ("ckpt_2", second)):
        if path:
            original.ours[f"model.{key}"] = str(path).rstrip("/")
