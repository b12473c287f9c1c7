"""`video-llama weights export`: writes what was trained in the published layouts.

    video-llama weights export --ckpt output/visionbranch_stage2 --out VL.pth
    video-llama weights export --cfg-path RUN.yaml --branch audio --out AL.pth
    video-llama weights export --ckpt output/stage1 --format plain --out mm_projector.bin
    video-llama weights export --ckpt output/stage2 --format original --out Video-LLaVA-mine
    video-llama weights export --ckpt output/stage2_lora --format bundle --out Video-LLaVA-lora

A file holds trained branches and loads again bit for bit, here as `model.ckpt` or `model.ckpt_2`,
and in the published code. Where a system is published as one directory, encoders and decoder are
written too; adapters are then part of the decoder, unless the format is `bundle`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.common.schema import Config
from video_llama.models.exporting import (
    DIRECTORY_FORMATS,
    FORMATS,
    export_branches,
    export_directory,
)

CONFIG_FILE = "config.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--cfg-path", metavar="FILE", help="run file (default: the one in the folder of --ckpt)"
    )
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the run file"
    )
    parser.add_argument(
        "--ckpt", metavar="PATH", help="what to export (default: model.ckpt and model.ckpt_2)"
    )
    parser.add_argument(
        "--branch",
        metavar="NAME",
        help="write this branch of the model, e.g. video; a shared stage is its owner's (default: "
        "all there are)",
    )
    parser.add_argument(
        "--format", choices=[*FORMATS, *DIRECTORY_FORMATS], default="released",
        help="a file of branches, released: a .pth as published; plain: without the table around "
        "it, as mm_projector.bin; safetensors; or a directory, original, hf, transformers5: the "
        "whole model in one of its layouts; bundle: its adapters (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--lossy", action="store_true", help="leave out what a directory's layout has no place for"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="PATH", help="file or directory to write"
    )


def main(args: argparse.Namespace) -> int:
    """Write the file and say what is in it."""
    config = _read_config(args).model
    if args.format in DIRECTORY_FORMATS:
        names = export_directory(config, out=args.out, file_format=args.format, is_lossy=args.lossy)
    else:
        names = export_branches(config, branch=args.branch, out=args.out, file_format=args.format)
    print(f"{args.out}: {len(names)} tensors, {names[0]} to {names[-1]}")
    return 0


def _read_config(args: argparse.Namespace) -> Config:
    """Return the run file, or the one a run left in its folder, with `--ckpt` in place.

    Raises:
        ConfigError: there is neither.
    """
    path, options = args.cfg_path, list(args.options)
    if args.ckpt is not None:
        options += [f"model.ckpt={args.ckpt}", "model.ckpt_2=null"]
    if path is None:
        path = _beside(args.ckpt)
    return load(path, options=options)


def _beside(checkpoint: str | None) -> Path:
    """Return the run file that a run left in its folder."""
    if checkpoint is None:
        raise ConfigError("weights export: name a run file (--cfg-path) or a run's folder (--ckpt)")
    for folder in (Path(checkpoint), *Path(checkpoint).parents):
        if (folder / CONFIG_FILE).is_file():
            return folder / CONFIG_FILE
    raise ConfigError(
        f"--ckpt {checkpoint}: no {CONFIG_FILE} in or above it, so its run file is unknown; name "
        "it with --cfg-path"
    )
