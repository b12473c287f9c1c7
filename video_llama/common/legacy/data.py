"""Data sets and schedule of an original run file: what several of its keys decide together.

Every function sets keys of ours; what cannot be had is a problem, what is had differently a note.
"""

from __future__ import annotations

from typing import Any

from video_llama.common.legacy.original import AUDIO, CAPTIONS, VIDEO, Original

READERS = {
    "webvid": "webvid",
    "cc_sbu_align": "cc_sbu_align",
    "llava_instruct": "llava_instruct",
    "webvid_instruct": "video_instruct",
    "webvid_instruct_zh": "webvid_instruct_zh",
    "cc_sbu": "cc_sbu",
    "laion": "laion",
}
"""Data sets of the original, and our readers."""

SECONDS_TOLD = {"webvid_instruct": True, "webvid_instruct_zh": False}
"""Whether our readers of conversations about clips tell when frames were taken."""

TARS = ("cc_sbu", "laion")
"""Data sets in tar files, by a brace pattern."""

PROCESSORS = {
    "webvid": ("alpro_video_train", "alpro_video_eval"),
    "cc_sbu_align": ("blip2_image_train", "blip2_image_eval"),
    "llava_instruct": ("blip2_image_train", "blip2_image_eval"),
    "cc_sbu": ("blip2_image_train", "blip2_image_eval"),
    "laion": ("blip2_image_train", "blip2_image_eval"),
}
"""Processors that go with a data set, with and without random crops. Conversations about clips are
read by code of their own, whatever their `vis_processor` says."""

NORMALISATION = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
"""Of all processors, as published with CLIP (openai/CLIP, clip/clip.py)."""

NUM_FRAMES = 8
"""Of conversations about clips, whatever `n_frms` says."""

ITERS_PER_EPOCH = 10_000
"""Where `iters_per_epoch` is not set."""

LOG_FREQ = 50
"""Where `log_freq` is not set."""

REQUIRED = ("init_lr", "min_lr", "weight_decay", "batch_size_train", "num_workers", "seed")
"""Keys of the schedule that have no default in the original."""


def choose_datasets(original: Original) -> None:
    """Turn data sets into entries; an evaluation file only names a processor, and has none."""
    uniform = not original.datasets or original.of(original.datasets[0], "sample_ratio") is None
    for name in original.datasets:
        if name not in READERS:
            original.refuse(f"datasets.{name}", f"unknown, the original has {', '.join(READERS)}")
        elif original.trains:
            _choose_entry(original, name, uniform=uniform)
    _choose_frames(original)


def _choose_entry(original: Original, name: str, *, uniform: bool) -> None:
    """Set the keys of one entry."""
    entry = f"datasets.{name}"
    original.ours[f"{entry}.type"] = READERS[name]
    _choose_paths(original, name)
    original.ours[f"{entry}.augment"] = "random_crop" if _is_cropped(original, name) else "none"
    _choose_ratio(original, name, uniform=uniform)
    if name in ("webvid", *TARS):
        cleaned = original.of(name, "text_processor.train.name") == "blip_caption"
        original.ours[f"{entry}.cleaning"] = "blip" if cleaned else "none"
        words = original.of(name, "text_processor.train.max_words")
        if words is not None:
            original.ours[f"{entry}.max_words"] = words
    told = "cn" not in str(original.of(name, "data_type"))
    if name in SECONDS_TOLD and told != SECONDS_TOLD[name]:
        original.ours[f"{entry}.frame_times"] = told
    slots = original.of(name, "num_video_query_token", original.num_slots)
    if name not in CAPTIONS and slots != original.num_slots:
        branch = "audio" if original.hears else "video"
        original.refuse(
            f"{entry}.num_video_query_token",
            f"{slots}, but the {branch} branch, which trains, makes {original.num_slots}",
        )


def _choose_paths(original: Original, name: str) -> None:
    """Set where an entry's files are."""
    entry = f"datasets.{name}"
    storage = original.of(name, "build_info.storage")
    paths = {
        "annotations": original.of(name, "build_info.anno_dir"),
        "media": original.of(name, "build_info.videos_dir"),
    }
    if name in TARS:
        paths = {"shards": storage}
    elif name == "cc_sbu_align" and storage is not None:
        folder = str(storage).rstrip("/")
        paths = {"annotations": f"{folder}/filter_cap.json", "media": folder}
    for key, path in paths.items():
        if path is None:
            stored = name in ("cc_sbu_align", *TARS)
            wanted = "storage" if stored else "anno_dir and videos_dir"
            original.refuse(f"{entry}.build_info", f"missing, expected {wanted}")
        else:
            original.ours[f"{entry}.{key}"] = str(path).rstrip("/")


def _choose_ratio(original: Original, name: str, *, uniform: bool) -> None:
    """Set the weight of an entry; the original looks at the first one to see whether they count."""
    ratio = original.of(name, "sample_ratio")
    if uniform and ratio is not None:
        original.notes.append(
            f"datasets.{name}.sample_ratio: {ratio} is not used, the original draws evenly unless "
            "the first data set has a ratio too"
        )
    elif not uniform and ratio is None:
        original.refuse(f"datasets.{name}.sample_ratio", "missing, the first data set has one")
    original.ours[f"datasets.{name}.sample_ratio"] = 1.0 if uniform else ratio


def _is_cropped(original: Original, name: str) -> bool:
    """Tell whether an entry is cropped at random."""
    if name not in PROCESSORS:
        return True
    found = original.of(name, "vis_processor.train.name", PROCESSORS[name][0])
    if found not in PROCESSORS[name]:
        original.refuse(
            f"datasets.{name}.vis_processor.train.name",
            f"'{found}', expected {' or '.join(PROCESSORS[name])}",
        )
    return bool(found == PROCESSORS[name][0])


def _choose_frames(original: Original) -> None:
    """Set which frames a branch takes, from the data sets that say so."""
    for name in original.datasets:
        _check_pictures(original, name)
    clips = [name for name in original.datasets if name.startswith("webvid")]
    policies = dict.fromkeys(clips, "segment_start")
    numbers = dict.fromkeys(clips, NUM_FRAMES)
    if "webvid" in clips:
        numbers["webvid"] = original.of("webvid", "vis_processor.train.n_frms", NUM_FRAMES)
        if original.trains and _is_cropped(original, "webvid"):
            policies["webvid"] = "headtail"
    if len(set(policies.values())) > 1:
        policies = dict.fromkeys(clips, "segment_start")
        original.notes.append(
            "datasets.webvid.vis_processor.train.name: a branch takes its frames in one way, here "
            "evenly as for the conversations, not drawn (headtail)"
        )
    if len(set(numbers.values())) > 1:
        original.refuse(
            "datasets.webvid.vis_processor.train.n_frms",
            f"{numbers['webvid']}, but the original always takes {NUM_FRAMES} frames for "
            "conversations, and a branch takes one number",
        )
    for branch in (VIDEO, AUDIO):
        if clips and (branch == VIDEO or original.hears):
            original.ours[f"{branch}.encoder.frame_policy"] = next(iter(policies.values()))
            original.ours[f"{branch}.encoder.num_frames"] = next(iter(numbers.values()))


def _check_pictures(original: Original, name: str) -> None:
    """Refuse sizes that the encoder does not take, and a normalisation it was not trained with."""
    if name not in PROCESSORS:
        return
    where = "vis_processor.train"
    expected: Any = original.number("model.image_size", default=224)
    found = original.of(name, f"{where}.image_size", expected)
    if found != expected:
        original.refuse(
            f"datasets.{name}.{where}.image_size", f"{found}, but the encoder takes {expected}"
        )
    for key, values in NORMALISATION.items():
        found = original.of(name, f"{where}.{key}", values)
        if not isinstance(found, (list, tuple)) or tuple(found) != values:
            original.refuse(
                f"datasets.{name}.{where}.{key}", f"{found}, but weights expect {list(values)}"
            )


def choose_schedule(original: Original) -> None:
    """Set what the original does where a file does not say it."""
    run: dict[str, Any] = {
        "task": "video_text_pretrain",
        "output_dir": f"output/{original.path.stem}",
        # The original autocasts whatever `amp` says, which switches the scaling of the loss.
        "precision": "bf16",
    }
    if original.trains:
        for key in REQUIRED:
            if f"run.{key}" not in original.keys:
                original.refuse(f"run.{key}", "missing, the original has no default for it")
        warmup = original.keys.get("run.warmup_lr", -1)
        run |= {"iters_per_epoch": ITERS_PER_EPOCH, "log_freq": LOG_FREQ, "grad_clip_norm": None}
        run["warmup_lr"] = original.keys.get("run.init_lr") if warmup == -1 else warmup
    for key, value in run.items():
        original.ours.setdefault(f"run.{key}", value)
