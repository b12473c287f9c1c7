"""What each of two ranks does for test_shared_stage.py: a few steps under every engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from models.tiny_shared import batch_of, build
from safetensors.torch import save_file
from torch import Tensor

from video_llama.common.dist import World, process_group
from video_llama.common.schema import RunConfig
from video_llama.common.zero import Zero
from video_llama.runners import deepspeed_config
from video_llama.runners.engines import build_engine
from video_llama.runners.optim import build_optimizer

STEPS = (((2, 0), (0, 1)), ((0, 0), (1, 1)), ((0, 0), (0, 0)), ((1, 0), (0, 0)))
"""Pictures and clips of rank 0 and of rank 1; without either it is a text."""

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "zero_2": {"engine": "deepspeed", "zero": Zero(2)},
    "zero_3": {"engine": "deepspeed", "zero": Zero(3)},
}
STAGES = {"learning": True, "frozen": False}
"""What the shared stage does beside a decoder that learns."""


def learn(ranks: Sequence[int], *, world: World, learns: bool, run: RunConfig) -> dict[str, Tensor]:
    """Return what a model has learned from the batches of some ranks, averaged."""

    def change(tree: dict[str, Any]) -> None:
        tree["branches"]["image"]["stages"]["projection"]["trainable"] = learns
        tree["decoder"]["trainable"] = True

    model = build(change).train()
    engine = build_engine(
        model,
        optimizer=build_optimizer(model, run),
        run=run,
        world=world,
        device=torch.device("cpu"),
    )
    for step in STEPS:
        batches = [batch_of(num_images=step[r][0], num_clips=step[r][1]) for r in ranks]
        for batch in batches:
            with engine.accumulate(is_last=batch is batches[-1]):
                loss = engine.model(batch).loss_sum
                engine.backward(loss / len(batches))
        engine.clip(None)
        engine.step(lr=0.01)
    return engine.trainable_state()


def run_engines(folder: Path) -> None:
    """Learn under every engine, this rank its own batches, and write down what was learned."""
    # Else every weight of a tiny model would be whole everywhere.
    deepspeed_config.WHOLE_ELEMENTS = 0
    with process_group("cpu", also_alone=True) as world:
        for name, keys in ENGINES.items():
            for stage, learns in STAGES.items():
                run = RunConfig("", "", grad_clip_norm=None, **keys)
                state = learn([world.rank], world=world, learns=learns, run=run)
                if world.rank == 0:
                    save_file(
                        {key: tensor.clone().contiguous() for key, tensor in state.items()},
                        folder / f"{name}_{stage}.safetensors",
                    )
