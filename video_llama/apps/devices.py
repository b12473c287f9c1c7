"""Where a model computes: the flags `--device` and `--gpu-id`, and what this machine has.

The flags know no torch, so that `--help` stays quick; `pick_device` does.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import cast

from video_llama.common.errors import ConfigError
from video_llama.common.schema import LowResource, RunConfig

DEVICE_HELP = "auto, cpu, cuda, cuda:1, mps, xpu (default: run.device)"


@dataclass(frozen=True)
class DeviceChoice:
    """What the flags of `add_device_arguments` said; None leaves it to the run file.

    Attributes:
        device: as in `run.device`.
        low_resource: as in `model.low_resource`.
    """

    device: str | None = None
    low_resource: LowResource | None = None


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, the published `--gpu-id`, `--load-8bit` and `--load-4bit`."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", metavar="NAME", help=DEVICE_HELP)
    where.add_argument("--gpu-id", type=int, metavar="N", help="the same as --device cuda:N")
    add_bits_arguments(parser)


def add_bits_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--load-8bit` and `--load-4bit` alone."""
    size = parser.add_mutually_exclusive_group()
    for name in ("8bit", "4bit"):
        size.add_argument(
            f"--load-{name}",
            dest="low_resource",
            action="store_const",
            const=name,
            help=f"decoder in {name[0]} bits, the same as model.low_resource={name}",
        )


def device_choice(args: argparse.Namespace) -> DeviceChoice:
    """Return what the flags of `add_device_arguments` said."""
    device = args.device if args.gpu_id is None else f"cuda:{args.gpu_id}"
    return DeviceChoice(device, low_resource=cast("LowResource | None", args.low_resource))


def pick_device(run: RunConfig) -> str:
    """Return a torch device for `run.device`; auto takes a CUDA GPU if there is one, else the CPU.

    Raises:
        ConfigError: the device is not there, or cannot compute in `run.precision`.
    """
    there = available_devices()
    name = run.device
    if name == "auto":
        name = "cuda" if "cuda" in there else "cpu"
    kind, colon, index = name.partition(":")
    known = kind in there and (not colon or (index.isdecimal() and int(index) < there[kind]))
    if not known:
        raise ConfigError(
            f"run.device: '{name}' is not there; found: {', '.join(_shown(there))}; take one of "
            "them, or auto"
        )
    if run.precision == "fp16" and kind != "cuda":
        raise ConfigError(
            f"run.precision: fp16 needs a CUDA GPU and the device is '{name}', which computes "
            "float16 far slower than float32, if at all; set run.precision: bf16 or fp32"
        )
    return name


def available_devices() -> dict[str, int]:
    """Return how many devices of each kind this machine has."""
    import torch

    found = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    return {kind: number for kind, number in found.items() if number}


def _shown(there: dict[str, int]) -> list[str]:
    """Name what is there as one may ask for it."""
    return [
        f"{kind}:{number}" if count > 1 else kind
        for kind, count in there.items()
        for number in range(count)
    ]
