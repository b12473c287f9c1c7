"""Chooses the engine of a run."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from video_llama.common.dist import World
from video_llama.common.errors import ConfigError
from video_llama.common.schema import Config, RunConfig
from video_llama.runners.deepspeed_config import zero_settings
from video_llama.runners.deepspeed_engine import MISSING, DeepSpeedEngine
from video_llama.runners.engine import Engine, TorchEngine


def build_engine(
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer,
    run: RunConfig,
    world: World,
    device: torch.device,
) -> Engine:
    """Build the engine that `run.engine` names; auto is torch, with DDP for several processes.

    Args:
        model: on the device that `model_device` names; an engine may divide it.
        optimizer: over the trainable parameters, its groups carry `names`.
        run: the `run` section.
        world: this process among the others.
        device: of this process.

    Raises:
        ConfigError: the engine is not installed.
    """
    if run.engine == "deepspeed":
        return DeepSpeedEngine(model, optimizer=optimizer, run=run, world=world, device=device)
    return TorchEngine(
        model, optimizer=optimizer, world=world, device=device, precision=run.precision
    )


def refuse_unusable(config: Config, *, device: str) -> None:
    """Refuse an engine that cannot do what a run asks of it, before a weight is read.

    Args:
        config: the run file.
        device: of the run, "auto" resolved.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems = []
    if config.run.device_map != "none":
        problems.append(
            f"run.device_map: {config.run.device_map} is for talking to a model; a training has a "
            "whole one on every GPU: set run.device_map: none (run.zero.stage: 3 divides weights)"
        )
    if config.run.engine == "deepspeed":
        problems += _deepspeed_problems(config, device=device)
    if problems:
        raise ConfigError(problems)


def _deepspeed_problems(config: Config, *, device: str) -> list[str]:
    """Say what keeps DeepSpeed from working."""
    problems, zero = [], zero_settings(config.run)
    bits = config.model.low_resource
    if bits != "none" and zero is not None and zero.stage == 3:
        problems.append(
            f"model.low_resource: run.zero.stage: 3 would divide weights in {bits} and leave the "
            "scales behind by which they are read; set run.zero.stage: 2, which leaves frozen "
            "weights whole, or model.low_resource: none"
        )
    if importlib.util.find_spec("deepspeed") is None:
        problems.append(f"run.engine: {MISSING}")
    if torch.device(device).type not in ("cuda", "cpu"):
        problems.append(
            f"run.engine: deepspeed works on CUDA GPUs and CPUs, and the device is '{device}'; set "
            "run.engine: auto, or run.device: cpu"
        )
    return problems


def model_device(run: RunConfig, *, device: str) -> str:
    """Return where a model is put together before an engine takes it over.

    Args:
        run: the `run` section.
        device: of this process.

    Returns:
        The device, but the CPU if each process will have only its share of the weights.
    """
    zero = zero_settings(run)
    return "cpu" if zero is not None and zero.stage == 3 else device
