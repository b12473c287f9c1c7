"""`video-llama plan`: whether a run fits its GPUs, how long it takes, which files it misses.

    video-llama plan --cfg-path train_configs/visionbranch_stage2_finetune.yaml --gpus 8

    video-llama plan --chat --cfg-path eval_configs/video_llama_eval_withaudio.yaml --load-4bit

`train.py --dry-run` shows the same model and files, and the resolved config, without GPUs. The
model is built on the meta device: full size costs seconds and no memory, and no weight is read.

Exit codes: 0 the run fits and could start, 2 it does not fit, something is wrong with it, or a
file is missing. With --no-files nobody looks for files, as when planning for another machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.syntax import Syntax

from video_llama.apps.check_samples import sample_problems
from video_llama.apps.checks import MissingFile, meta_model, misfits, missing_files
from video_llama.apps.console import wide_console
from video_llama.apps.devices import add_bits_arguments
from video_llama.apps.main import add_config_arguments
from video_llama.apps.plan_chat_view import add_chat_arguments, plan_talking
from video_llama.apps.plan_memory import count_weights, sharding_of
from video_llama.apps.plan_run import MFU, Machine, count_samples, disk_lines, run_time
from video_llama.apps.plan_steps import StepPlanner
from video_llama.apps.plan_tables import (
    show_disk,
    show_memory,
    show_missing,
    show_parts,
    show_slots,
    show_steps,
    show_time,
)
from video_llama.common.config import load
from video_llama.common.dist import read_world
from video_llama.common.errors import ConfigError
from video_llama.common.gpus import GPUS, gpu_named, recognise
from video_llama.common.logger import start_logging
from video_llama.common.registry import registry
from video_llama.common.schema import Config
from video_llama.common.yaml_files import assignments
from video_llama.datasets.base import DatasetReader
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.data import open_readers
from video_llama.runners.deepspeed_config import deepspeed_config, show
from video_llama.runners.epochs import settle_epochs
from video_llama.runners.goal import check_goal

DEFAULT_GPU = "a100-80gb"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `video-llama plan`."""
    add_config_arguments(parser)
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs of a node")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes")
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help=f"one of {', '.join(GPUS)} (default: this machine's, else {DEFAULT_GPU})",
    )
    parser.add_argument(
        "--mfu",
        type=float,
        default=MFU,
        metavar="SHARE",
        help=f"share of the GPU's peak that is reached, 0..1 (default: {MFU})",
    )
    parser.add_argument(
        "--length",
        type=int,
        metavar="POSITIONS",
        help="decoder positions of an average sample, for the time (default: model.max_txt_len), "
        "or of a conversation (default: all there are)",
    )
    parser.add_argument("--no-files", action="store_true", help="do not look for files")
    add_chat_arguments(parser)
    add_bits_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Show the plan of a run.

    Raises:
        ConfigError: the run file or a flag is wrong.
    """
    start_logging()
    machine = _machine(args)
    if args.chat:
        return plan_talking(args, gpu=machine.gpu)
    if args.presets:
        raise ConfigError("--presets: goes with --chat")
    bits = [] if args.low_resource is None else [f"model.low_resource={args.low_resource}"]
    config = load(args.cfg_path, options=[*assignments(args.options), *bits])
    return _plan(config, machine=machine, length=args.length, looks_for_files=not args.no_files)


def show_plan(config: Config) -> int:
    """Print the resolved config, the table of parts, slots against context, and missing files.

    Returns:
        0 if the run could start, 2 if files are missing or something does not fit.
    """
    console = wide_console()
    console.print(Syntax(OmegaConf.to_yaml(OmegaConf.create(config.resolved)), "yaml"))
    if config.run.engine == "deepspeed":
        told = deepspeed_config(config.run, world_size=read_world().size)
        console.print(Syntax(show(told), "json"))
    model = meta_model(config.model)
    show_parts(model, console=console)
    show_slots(model, console=console)
    readers = {
        name: registry.get_dataset_class(entry.type)(entry.config, name=name)
        for name, entry in config.datasets.items()
    }
    missing, problems = _missing(config, readers), _problems(config, readers, model)
    if not missing and not problems:
        problems += sample_problems(config, readers, model)
    _show_wrong(missing, problems=problems, console=console)
    return 2 if missing or problems else 0


def _is_training(config: Config) -> bool:
    return any(entry.split == "train" for entry in config.datasets.values())


def _missing(config: Config, readers: Mapping[str, DatasetReader]) -> list[MissingFile]:
    """Return what a run needs and this machine lacks, the checkpoint to start from included."""
    missing = list(missing_files(config, readers))
    start = config.run.resume_ckpt_path
    if start is not None and start != "auto" and not Path(start).is_dir():
        missing.append(MissingFile("run.resume_ckpt_path", f"there is no directory {start}"))
    return missing


def _problems(config: Config, readers: Mapping[str, DatasetReader], model: VideoLLM) -> list[str]:
    """Say what is wrong with a run, files apart."""
    problems = misfits(model, readers)
    if _is_training(config):
        try:
            check_goal(config)
        except ConfigError as error:
            problems += error.problems
    return problems


def _show_wrong(
    missing: Sequence[MissingFile] | None, *, problems: Sequence[str], console: Console
) -> None:
    """Print what keeps a run from starting; None for files if nobody looked."""
    if missing:
        show_missing(missing, console=console)
    elif missing is not None:
        console.print("every file is there")
    for problem in problems:
        console.print(problem, style="bold red", markup=False)


def _plan(config: Config, *, machine: Machine, length: int | None, looks_for_files: bool) -> int:
    """Print everything that can be known of a run; return the exit code.

    Raises:
        ConfigError: it is no training.
    """
    if not _is_training(config):
        raise ConfigError(
            "datasets: none has split: train, and a training is what is planned; give the file of "
            "one, or add a data set (train.py --dry-run shows any file's parts, slots and files)"
        )
    console, model = wide_console(), meta_model(config.model)
    readers = open_readers(config)
    show_parts(model, console=console)
    show_slots(model, console=console)
    weights = count_weights(model)
    planner = StepPlanner(config, length=length)
    steps = planner.steps(readers)
    fits = show_memory(
        config,
        weights=weights,
        steps=steps,
        machine=machine,
        sharding=sharding_of(config.run, world_size=machine.world_size),
        console=console,
    )
    config = _settled(config, readers, machine=machine)
    lengths = count_samples(config, readers)
    show_steps(steps, length=planner.length, machine=machine, console=console)
    show_time(
        run_time(config, steps=steps, machine=machine, lengths=lengths),
        machine=machine,
        console=console,
    )
    show_disk(
        disk_lines(
            config,
            weights=weights,
            steps=steps,
            specs=planner.specs,
            lengths=lengths,
            world_size=machine.world_size,
        ),
        console=console,
    )
    missing = _missing(config, readers) if looks_for_files else None
    problems = _problems(config, readers, model)
    if not machine.gpu.has_bfloat16 and any("bfloat16" in step.flops for step in steps):
        problems.append(
            f"--gpu {machine.gpu.name}: has no bfloat16, which this run computes in; set "
            "run.precision: fp16, and dtype: float16 for parts in bfloat16"
        )
    _show_wrong(missing, problems=problems, console=console)
    return 0 if fits and not missing and not problems else 2


def _settled(config: Config, readers: Mapping[str, DatasetReader], *, machine: Machine) -> Config:
    """Say how many steps an epoch has, if what decides it is here."""
    run = config.run
    if run.iters_per_epoch == "auto" and any(reader.missing() for reader in readers.values()):
        return config
    batch = run.batch_size_train * run.accum_grad_iters * machine.world_size
    return settle_epochs(config, readers=readers, global_batch_size=batch)


def _machine(args: argparse.Namespace) -> Machine:
    """Return what the flags describe.

    Raises:
        ConfigError: they describe nothing that could be.
    """
    problems = []
    if min(args.gpus, args.nodes) < 1:
        problems.append(f"--gpus {args.gpus} --nodes {args.nodes}: both must be at least 1")
    if not 0 < args.mfu <= 1:
        problems.append(f"--mfu: expected a share above 0 and at most 1, found {args.mfu}")
    if args.length is not None and args.length < 1:
        problems.append(f"--length: expected at least 1 position, found {args.length}")
    if problems:
        raise ConfigError(problems)
    gpu = gpu_named(args.gpu) if args.gpu else None
    if gpu is None and torch.cuda.is_available():
        gpu = recognise(torch.cuda.get_device_name())
    return Machine(gpu or GPUS[DEFAULT_GPU], args.gpus * args.nodes, args.mfu)
