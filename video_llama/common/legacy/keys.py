"""The keys of the original Video-LLaMA's run files, one by one: what becomes of each here.

A table, which `docs/original_configs.md` repeats. What several keys decide together is worked out
in `model` and `data`; what happens to a file as a whole stands in `translate`.

Source of names, defaults and effects: DAMO-NLP-SG/Video-LLaMA at 64888c0, its train_configs,
eval_configs, common/config.py, models/video_llama.py, processors, datasets/builders, runners.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

from video_llama.common.legacy.original import AUDIO, VIDEO, VIT_FILE
from video_llama.common.schema import LowResource

UNREAD = "the original never reads it"
TORCHRUN = "torchrun says it"
ONLY_TRAIN = "the original builds train splits only"


@dataclass(frozen=True)
class Rule:
    """What becomes of one key of an original file.

    Attributes:
        ours: our keys that it sets, alone or with others; none if it changes nothing here.
        note: what to know about it; why, if it sets nothing.
        convert: from its value to ours; None if it takes more than one key.
        shared: our own files have the key too.
        is_unread: nobody uses it, and everything below it, neither here nor, unless the note says
            so, in the original.
    """

    ours: tuple[str, ...] = ()
    note: str = ""
    convert: Callable[[Any], Any] | None = None
    shared: bool = False
    is_unread: bool = False


def _same(value: Any) -> Any:
    """Take a value as it is."""
    return value


def _negated(value: Any) -> bool:
    """Turn frozen into trainable."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {value!r}")
    return not value


def _path(value: Any) -> str | None:
    """Take a path; an empty one is none."""
    return (str(value).rstrip("/") or "/") if value else None


def _only(*accepted: Any, why: str) -> Callable[[Any], None]:
    """Accept what changes nothing and refuse the rest."""

    def check(value: Any) -> None:
        if value not in accepted:
            raise ValueError(f"expected {accepted[0]!r}, found {value!r}; {why}")

    return check


def _vit_file(value: Any) -> str:
    """Name the encoder's file by its model name; anything else is a path already."""
    return VIT_FILE if value == "eva_clip_g" else str(value)


def _half_or_single(value: Any) -> str:
    """Turn vit_precision, of which only fp16 means something, into a dtype."""
    return "bfloat16" if value == "fp16" else "float32"


def _bits(value: Any) -> str:
    """Turn low_resource, which is true or false there, into bits."""
    if value not in (True, False, *get_args(LowResource)):
        raise ValueError(f"expected true or false, {' or '.join(get_args(LowResource))}")
    return {True: "8bit", False: "none"}[value] if isinstance(value, bool) else str(value)


def _to(*ours: str, convert: Callable[[Any], Any] = _same, note: str = "") -> Rule:
    """Set keys to the converted value."""
    return Rule(ours, note, convert)


def _kept(key: str, convert: Callable[[Any], Any] = _same, note: str = "") -> Rule:
    """Keep a key that our files have too."""
    return Rule((key,), note, convert, shared=True)


def _checked(*accepted: Any, why: str) -> Rule:
    """Take only values that change nothing."""
    return Rule((), f"only `{accepted[0]!r}`: {why}", _only(*accepted, why=why))


def _jointly(*ours: str, note: str = "", shared: bool = False) -> Rule:
    """Leave a key to `model` or `data`."""
    return Rule(ours, note, shared=shared)


def _unread(note: str = UNREAD, *, shared: bool = False) -> Rule:
    """Name a key that changes nothing."""
    return Rule(note=note, shared=shared, is_unread=True)


MODEL = {
    "arch": _kept("model.arch"),
    "model_type": _jointly(
        "model.model_type",
        note="with `hidden_size` of `llama_model`/config.json (without the file: 7b or 13b in its "
        "path): `vicuna7b`, `vicuna13b`, `llama2_7b`, `llama2_13b`",
        shared=True,
    ),
    "vit_model": _kept("model.vit_model", _vit_file, "`eva_clip_g` is the published file"),
    "q_former_model": _kept("model.q_former_model", _path, "default: the published address"),
    "image_size": _to(f"{VIDEO}.encoder.image_size"),
    "drop_path_rate": _to(f"{VIDEO}.encoder.drop_path_rate"),
    "use_grad_checkpoint": _to(f"{VIDEO}.encoder.gradient_checkpointing"),
    "vit_precision": _to(
        f"{VIDEO}.encoder.dtype",
        convert=_half_or_single,
        note="half precision is bfloat16 here, anything but `fp16` float32",
    ),
    "freeze_vit": _to(
        f"{VIDEO}.encoder.trainable", f"{VIDEO}.stages.ln_vision.trainable", convert=_negated
    ),
    "freeze_qformer": _to(f"{VIDEO}.stages.image_qformer.trainable", convert=_negated),
    "num_query_token": _to(f"{VIDEO}.stages.image_qformer.num_queries"),
    "max_frame_pos": _to(f"{VIDEO}.stages.video_qformer.num_positions"),
    "num_video_query_token": _to(f"{VIDEO}.stages.video_qformer.num_queries"),
    "num_audio_query_token": _to(f"{AUDIO}.stages.audio_qformer.num_queries"),
    "equip_audio_branch": _jointly(
        AUDIO, note="false: not built; true and frozen in training: not built either, unused there"
    ),
    "frozen_llama_proj": _jointly(f"{VIDEO}.stages.projection.trainable", note="negated"),
    "frozen_video_Qformer": _jointly(
        VIDEO,
        f"{VIDEO}.stages.video_qformer.trainable",
        note="negated; frozen while the audio branch trains: not built, as nothing would use it",
    ),
    "frozen_audio_Qformer": _jointly(
        "model.audio_branch_media",
        f"{AUDIO}.stages.audio_qformer.trainable",
        f"{AUDIO}.stages.projection.trainable",
        note="false: the audio branch trains on pictures, as published",
    ),
    "llama_model": _kept("model.llama_model", _path),
    "llama_proj_model": _kept("model.llama_proj_model", _path),
    "imagebind_ckpt_path": _kept("model.imagebind_ckpt_path", _path, "a folder, or the file"),
    "ckpt": _jointly("model.ckpt", note="left out where only the audio branch trains", shared=True),
    "ckpt_2": _jointly(
        "model.ckpt_2", "model.ckpt", note="`ckpt` where only the audio branch trains", shared=True
    ),
    "prompt_path": _jointly(
        "datasets.*.prompts", note="its lines with `<ImageHere>`, for captions; one a sample"
    ),
    "prompt_template": _jointly(note="the template's own; only the published text is accepted"),
    "end_sym": _jointly(note="the template's own; only the published one is accepted"),
    "max_txt_len": _jointly(
        "model.max_txt_len",
        note="of captions alone; ours counts slots too: slots + 1 + this, but 512 (or this, if "
        "more) with conversations, 2048 for chat",
        shared=True,
    ),
    "low_resource": _kept("model.low_resource", _bits, "true is `8bit`; `4bit` is ours"),
    "device_8bit": _unread("the decoder goes to `run.device` like the rest"),
    "prompt": _unread(),
    "fusion_header_type": _unread(),
    "fusion_head_layers": _unread(f"{UNREAD}: two layers whatever it says"),
}
DATASETS = {
    "data_type": _jointly(
        "datasets.*.frame_times", note="of conversations about clips: false if `cn` is in it"
    ),
    "build_info.storage": _jointly(
        "datasets.*.annotations",
        "datasets.*.media",
        note="filter_cap.json in it, and itself; `cc_sbu`, `laion`: `datasets.*.shards`",
    ),
    "build_info.anno_dir": _jointly("datasets.*.annotations"),
    "build_info.videos_dir": _jointly("datasets.*.media"),
    "vis_processor.train.name": _jointly(
        "datasets.*.augment",
        f"{VIDEO}.encoder.frame_policy",
        f"{AUDIO}.encoder.frame_policy",
        note="`alpro_video_train`: random_crop and headtail, `blip2_image_train`: random_crop; "
        "`*_eval`: none and segment_start; `webvid_instruct` always random_crop, segment_start",
    ),
    "vis_processor.train.n_frms": _jointly(
        f"{VIDEO}.encoder.num_frames",
        f"{AUDIO}.encoder.num_frames",
        note="`webvid` alone; `webvid_instruct` always takes 8",
    ),
    "vis_processor.train.image_size": _jointly(note="must be `model.image_size`"),
    "vis_processor.train.mean": _jointly(note="only the default, which weights were trained with"),
    "vis_processor.train.std": _jointly(note="only the default, which weights were trained with"),
    "vis_processor.train.min_scale": _checked(0.5, why="the crop of random_crop"),
    "vis_processor.train.max_scale": _checked(1.0, 1, why="the crop of random_crop"),
    "vis_processor.eval": _unread(ONLY_TRAIN),
    "text_processor.train.name": _jointly(
        "datasets.*.cleaning",
        note="`blip_caption`: blip, for `webvid`, `cc_sbu`, `laion`; other data sets skip it",
    ),
    "text_processor.train.max_words": _jointly(
        "datasets.*.max_words", note="`webvid`, `cc_sbu`, `laion` alone"
    ),
    "text_processor.train.prompt": _checked("", why="captions have no beginning of their own here"),
    "text_processor.eval": _unread(ONLY_TRAIN),
    "sample_ratio": _jointly(
        "datasets.*.sample_ratio", note="1 for all if the first data set has none", shared=True
    ),
    "type": replace(_checked("default", why="there is no other"), shared=True),
    "num_video_query_token": _jointly(note="must be the trained branch's number of queries"),
    "tokenizer_name": _jointly("model.tokenizer", note="if it is not `llama_model`"),
    "model_type": _jointly(note="must agree with `model.model_type`"),
}
RUN = {
    **{
        key: _kept(f"run.{key}")
        for key in (
            *("task", "lr_sched", "init_lr", "min_lr", "warmup_steps", "weight_decay", "beta2"),
            *("max_epoch", "iters_per_epoch", "batch_size_train", "accum_grad_iters"),
            *("num_workers", "log_freq", "seed", "output_dir", "device", "resume_ckpt_path"),
        )
    },
    "warmup_lr": _jointly("run.warmup_lr", note="-1, the default, is `init_lr`", shared=True),
    "amp": _jointly(
        "run.precision",
        note="`bf16`: the original autocasts whatever `amp` says, which only scales the loss",
        shared=True,
    ),
    "batch_size_eval": _unread("the original evaluates nothing", shared=True),
    "runner": _checked("runner_base", why="there is no other"),
    "lr_decay_rate": _kept(
        "run.lr_decay_rate", note="for `linear_warmup_step_lr`, with which the original stops"
    ),
    "train_splits": _checked(["train"], why=ONLY_TRAIN),
    "valid_splits": _checked([], None, why=ONLY_TRAIN),
    "test_splits": _checked([], None, why=ONLY_TRAIN),
    "evaluate": _checked(False, why="evaluate.py measures a model"),
    "use_dist_eval_sampler": _unread("the original evaluates nothing"),
    **dict.fromkeys(
        ("distributed", "world_size", "rank", "gpu", "dist_url", "dist_backend"),
        _unread(TORCHRUN),
    ),
}

RULES = {
    **{f"model.{key}": rule for key, rule in MODEL.items()},
    **{f"datasets.*.{key}": rule for key, rule in DATASETS.items()},
    **{f"run.{key}": rule for key, rule in RUN.items()},
    "preprocess": _unread("for one of the original's functions, no part of a run"),
}
"""Every key that the original knows, `*` for the name of a data set."""
