"""`video-llama weights merge-delta`: a usable decoder from LLaMA and what was published beside it.

    video-llama weights merge-delta --base LLAMA --delta DELTA --target OUT
    python apply_delta.py --base LLAMA --delta DELTA --target OUT

The flags are those of FastChat's apply_delta.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from video_llama.common.errors import VideoLlamaError
from video_llama.common.hub import local_path, way_to_get
from video_llama.common.logger import start_logging
from video_llama.models.decoders.deltas import RULES
from video_llama.models.decoders.merging import Merge, merge_directories


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; the long ones are FastChat's."""
    flags = {
        ("--base", "--base-model-path"): "LLaMA in Hugging Face's layout, or its name on the hub",
        ("--target", "--target-model-path"): "directory that will be written",
        ("--delta", "--delta-path"): "what was published, or its name on the hub",
    }
    for names, text in flags.items():
        parser.add_argument(*names, required=True, metavar="DIR", help=text)
    parser.add_argument(
        "--rule",
        choices=RULES,
        help="how to put them together (default: told from the weights)",
    )


def main(args: argparse.Namespace) -> int:
    """Merge and say what to do with the result."""
    start_logging()
    merge = Merge(
        base=_find(args.base, "--base"),
        release=_find(args.delta, "--delta"),
        target=Path(args.target),
        rule=args.rule,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("merging", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        rule = merge_directories(merge, on_bytes=show)
    print(f"{merge.target}: merged by the rule '{rule}'; set model.llama_model={merge.target}")
    return 0


def _find(text: str, flag: str) -> Path:
    """Return where a directory lies on this machine."""
    path = local_path(text)
    if not path.exists():
        raise VideoLlamaError(f"{flag}: there is no {text}{way_to_get(text)}")
    return path
