"""Every full-size recipe fits the GPUs it is written for, with every engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from video_llama.apps.checks import meta_model, misfits
from video_llama.apps.plan_memory import (
    count_weights,
    memory_bytes,
    memory_lines,
    sharding_of,
    total,
)
from video_llama.apps.plan_steps import StepPlanner
from video_llama.common.config import load
from video_llama.common.gpus import GPUS
from video_llama.runners.data import open_readers
from video_llama.runners.engines import refuse_unusable

RECIPES = sorted((Path(__file__).parents[2] / "train_configs").glob("*.yaml"))
ENGINES = {
    "ddp": ["run.engine=ddp"],
    "ZeRO 1": ["run.engine=deepspeed", "run.zero.stage=1"],
    "ZeRO 2": ["run.engine=deepspeed", "run.zero.stage=2"],
    "ZeRO 3": ["run.engine=deepspeed", "run.zero.stage=3"],
    "ZeRO 3, weights on the host": [
        "run.engine=deepspeed",
        "run.zero.stage=3",
        "run.zero.offload_parameters=cpu",
    ],
}
GPU, NUM_GPUS = GPUS["a100-80gb"], 8


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_with_every_engine_and_takes_no_more_the_more_is_divided(recipe):
    plain = load(recipe)
    model, readers = meta_model(plain.model), open_readers(plain)
    assert misfits(model, readers) == []
    weights = count_weights(model)
    dearest = max(
        (step.memory for step in StepPlanner(plain).steps(readers)),
        key=lambda memory: memory.total_bytes,
    )
    needs = {}
    for name, options in ENGINES.items():
        config = load(recipe, options=options)
        refuse_unusable(config, device="cuda")
        lines = memory_lines(
            weights,
            sharding=sharding_of(config.run, world_size=NUM_GPUS),
            activation_bytes=dearest.total_bytes,
            logit_bytes=dearest.logit_bytes,
        )
        needs[name] = total(lines)
    assert max(needs.values()) <= memory_bytes(GPU)
    # DeepSpeed's own buffers aside, every stage divides one thing more.
    ordered = [needs[name] for name in list(ENGINES)[1:]]
    assert ordered == sorted(ordered, reverse=True)
    assert needs["ZeRO 3"] < needs["ddp"] / 1.2
