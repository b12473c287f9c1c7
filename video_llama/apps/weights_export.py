"""`video-llama weights export`: writes trained branches in the published layout.

    video-llama weights export --ckpt output/visionbranch_stage2 --out VL.pth
    video-llama weights export --cfg-path RUN.yaml --branch audio --out AL.pth

The file loads again bit for bit, here as `model.ckpt` or `model.ckpt_2`, and in the published code.
Encoders and decoder are not written: nobody trained them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.common.schema import Config
from video_llama.models.exporting import FORMATS, export_branches

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
    parser.add_argument("--branch", metavar="NAME", help="video or audio (default: all there are)")
    parser.add_argument(
        "--format", choices=list(FORMATS), default="released",
        help="released: a .pth as published; safetensors: the same names (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write")


def main(args: argparse.Namespace) -> int:
    """Write the file and say what is in it."""
    config = _read_config(args).model
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
