"""What loading a model to talk to is going to take, and what it took: two lines in the log."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import torch

from video_llama.apps.checks import named_files
from video_llama.apps.plan_chat import ChatPlan, ChatPlanner
from video_llama.apps.plan_memory import GIB
from video_llama.common.hub import local_path
from video_llama.common.logger import get_logger
from video_llama.common.schema import ModelConfig
from video_llama.models.costs import Uncountable
from video_llama.models.video_llm import VideoLLM
from video_llama.models.weight_sizes import held_bytes

SMALL_BYTES = 2**28
"""Files below which a model is loaded in less time than it takes to plan it."""

WITH_PEAKS = ("cuda", "xpu")
"""Kinds of devices whose allocator remembers the most it gave out."""


def log_plan(config: ModelConfig, *, device: str) -> ChatPlan | None:
    """Log what a conversation will take, and forget the device's peak so far.

    Args:
        config: the typed `model` section.
        device: of the model.

    Returns:
        The plan; None for a model too small to be worth it, or one that cannot be planned.
    """
    kind = torch.device(device).type
    if kind in WITH_PEAKS:
        # The allocator knows no device before that.
        accelerator(kind).init()
        for gpu in range(accelerator(kind).device_count()):
            accelerator(kind).reset_peak_memory_stats(gpu)
    if _file_bytes(config) < SMALL_BYTES:
        return None
    try:
        plan = ChatPlanner(config).plan(on_gpu=kind in WITH_PEAKS)
    except Uncountable as error:
        get_logger().warning("memory cannot be planned: %s", error)
        return None
    get_logger().info("planned memory on %s: %s", device, plan)
    return plan


def log_measured(model: VideoLLM, *, device: str) -> None:
    """Log what the weights take and the most that was there at once, so far."""
    kind = torch.device(device).type
    gpus = range(accelerator(kind).device_count() if kind in WITH_PEAKS else 0)
    sizes = {gpu: accelerator(kind).max_memory_allocated(gpu) for gpu in gpus}
    peaks = [f"{size / GIB:.2f} GiB on {kind}:{gpu}" for gpu, size in sizes.items() if size]
    get_logger().info(
        "measured memory: weights %.2f GiB, peak %s",
        held_bytes(model) / GIB,
        ", ".join(peaks) or f"{peak_rss() / GIB:.2f} GiB of the process",
    )


def free_bytes(device: str) -> int | None:
    """Return what is free on a GPU, None for devices whose memory is the host's."""
    kind = torch.device(device).type
    if kind not in WITH_PEAKS:
        return None
    return int(accelerator(kind).mem_get_info(device)[0])


def accelerator(kind: str) -> Any:  # noqa: ANN401 - a module of torch
    """Return torch's module for a kind of GPU, `torch.cuda` or `torch.xpu`."""
    return getattr(torch, kind)


def peak_rss() -> int:
    """Return the most memory this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _file_bytes(config: ModelConfig) -> int:
    """Return the size of all weight files a model section names."""
    paths = [local_path(Path(path)) for _, path in named_files(config)]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())
