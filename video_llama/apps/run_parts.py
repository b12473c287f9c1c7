"""The parts of a run put together, to train it or to make one of its steps again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from video_llama.apps.loading import load_model, log_parts
from video_llama.common.dist import World, is_main
from video_llama.common.registry import registry
from video_llama.common.schema import Config
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.fills import Record
from video_llama.datasets.sample_encoder import TextSettings
from video_llama.models.layers import compile_backend, compile_layers
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.data import RunData
from video_llama.runners.engine import Engine
from video_llama.runners.engines import build_engine, model_device
from video_llama.runners.optim import build_optimizer, lr_scales
from video_llama.tasks.base import Task


@dataclass(frozen=True)
class RunParts:
    """What a run is made of.

    Attributes:
        model: as the engine takes it over.
        task: what is minimised.
        data: what is read.
        engine: how a step is made.
    """

    model: VideoLLM
    task: Task
    data: RunData
    engine: Engine


def build_parts(
    config: Config,
    *,
    readers: Mapping[str, DatasetReader],
    record: Record,
    world: World,
    device: str,
    shows_parts: bool = False,
) -> RunParts:
    """Put model, data and engine of a run together.

    Args:
        config: the typed run file.
        readers: of its data sets.
        record: how places were filled so far.
        world: this process among the others.
        device: of this process.
        shows_parts: print a table of the model's parts, while each is whole.
    """
    run = config.run
    scales = lr_scales(config)
    backend = compile_backend(run, device=device)
    # Parts that start from random weights are the same on every rank and in every start.
    torch.manual_seed(run.seed)
    loaded = load_model(config, device=model_device(run, device=device))
    if backend is not None:
        compile_layers(loaded.model, backend=backend)
    if shows_parts and is_main():
        log_parts(loaded.model)
    data = RunData(
        config,
        readers=readers,
        specs=loaded.model.branch_specs(fingerprint=run.feature_cache is not None),
        text=TextSettings(loaded.template, loaded.tokenizer, max_len=config.model.max_txt_len),
        world=world,
        device=device,
        record=record,
    )
    engine = build_engine(
        loaded.model,
        optimizer=build_optimizer(loaded.model, run, scales=scales),
        run=run,
        world=world,
        device=torch.device(device),
    )
    task = registry.get_task_class(run.task)()
    return RunParts(loaded.model, task=task, data=data, engine=engine)
