"""`video-llama shards VERB`: packs data sets into tars, and indexes tars.

    video-llama shards write --cfg-path train_configs/visionbranch_stage2_finetune.yaml --out shards
    video-llama shards index '/data/laion/{00000..10488}.tar'

A packing that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from video_llama.apps.checks import open_whole_readers
from video_llama.apps.main import add_config_arguments
from video_llama.common.config import load
from video_llama.common.errors import VideoLlamaError
from video_llama.common.logger import start_logging
from video_llama.common.schema import DatasetEntry
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.packing import Manifest, ShardLimits, is_drawn, pack
from video_llama.datasets.shard_set import MANIFEST, expand, prepare

MAX_SHOWN = 5
"""Broken samples that are printed; all of them stand in `shards.json`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    text = "pack data sets of a run file into tars"
    write = verbs.add_parser("write", help=text, description=text)
    add_config_arguments(write)
    write.add_argument("--datasets", nargs="+", metavar="NAME", help="default: all of the run file")
    write.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="one folder per data set goes there"
    )
    write.add_argument("--max-mb", type=float, default=512.0, help="megabytes a shard (512)")
    write.add_argument("--max-count", type=int, default=10_000, help="samples a shard (10000)")
    text = "make missing indexes of tars, and compare tars that have one with its checksum"
    index = verbs.add_parser("index", help=text, description=text)
    index.add_argument(
        "shards", nargs="+", help="brace pattern, address, pipe: command, or folder of tars"
    )
    index.add_argument("--index", metavar="DIR", help="where indexes are kept")


def main(args: argparse.Namespace) -> int:
    """Pack or index.

    Raises:
        VideoLlamaError: the run file, the data or the shards are wrong.
    """
    start_logging()
    return _index(args) if args.verb == "index" else _write(args)


def _index(args: argparse.Namespace) -> int:
    for pattern in args.shards:
        shards = prepare(expand(pattern), folder=args.index, thoroughness="checksum")
        num_samples = sum(shard.num_samples for shard in shards)
        print(f"{pattern}: {len(shards)} shards, {num_samples} samples, all whole")
    return 0


def _write(args: argparse.Namespace) -> int:
    limits = ShardLimits(max_mb=args.max_mb, max_count=args.max_count)
    config = load(args.cfg_path, options=args.options)
    readers = open_whole_readers(config, args.datasets or list(config.datasets))
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
    with bar:
        for name, reader in readers.items():
            folder = args.out / name
            manifest = _pack(config.datasets[name], reader, folder, limits=limits, bar=bar)
            for line in _summary(manifest, reader, folder=folder):
                bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _pack(
    entry: DatasetEntry, reader: DatasetReader, folder: Path, *, limits: ShardLimits, bar: Progress
) -> Manifest:
    """Pack one data set and show how far it is."""
    source = {"type": entry.type, **asdict(entry.config), "num_samples": len(reader)}
    task = bar.add_task(reader.name, total=len(reader))

    def show(done: int) -> None:
        bar.update(task, completed=done)

    try:
        return pack(
            reader, folder, source={**source, **asdict(limits)}, limits=limits, progress=show
        )
    except OSError as error:
        raise VideoLlamaError(
            f"{folder}: cannot be written ({error}); finished shards are kept, give the command "
            "again"
        ) from error


def _summary(manifest: Manifest, reader: DatasetReader, *, folder: Path) -> list[str]:
    """Say what was written, what was left out, and how it is read."""
    lines = [
        f"{folder}: {len(manifest.shards)} shards, {manifest.num_samples} samples, "
        f"{len(manifest.broken)} broken samples left out"
    ]
    lines += [f"  {broken.key}: {broken.reason}" for broken in manifest.broken[:MAX_SHOWN]]
    if len(manifest.broken) > MAX_SHOWN:
        lines.append(f"  and {len(manifest.broken) - MAX_SHOWN} more, see {folder / MANIFEST}")
    if is_drawn(reader):
        lines.append(
            f"  {reader.name} draws prompts or turns anew in every pass; the shards hold one draw"
        )
    lines.append(f"  datasets: {{{reader.name}: {{type: shards, shards: {folder}}}}}")
    return lines
