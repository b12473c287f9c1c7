"""`video-llama env`: what a bug report needs to say about the machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys

from rich.table import Table

from video_llama import __version__
from video_llama.apps.console import wide_console

PACKAGES = (
    "torch",
    "torchvision",
    "torchaudio",
    "transformers",
    "timm",
    "av",
    "decord2",
    "omegaconf",
    "peft",
    "deepspeed",
    "webdataset",
    "gradio",
    "sentencepiece",
    "numpy",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`env` has no flags."""


def main(args: argparse.Namespace) -> int:
    """Print versions and devices."""
    import torch

    table = Table("what", "found")
    table.add_row("video_llama", __version__)
    table.add_row("python", sys.version.split()[0])
    table.add_row("platform", platform.platform())
    table.add_row("cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()}")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("gpus", ", ".join(names) or "none")
    table.add_row("torch build", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    for package in PACKAGES:
        try:
            table.add_row(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(package, "not installed")
    wide_console().print(table)
    return 0
