"""Every full-size recipe fits the GPUs it is written for, and which engines it fits with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from video_llama.apps.checks import meta_model, misfits
from video_llama.apps.plan_memory import (
    Weights,
    count_weights,
    memory_bytes,
    memory_lines,
    sharding_of,
    total,
)
from video_llama.apps.plan_steps import StepMemory, StepPlanner
from video_llama.common.config import load
from video_llama.common.errors import ConfigError
from video_llama.common.gpus import GPUS
from video_llama.runners.data import open_readers
from video_llama.runners.engines import refuse_unusable

pytestmark = pytest.mark.slow
RECIPES = sorted((Path(__file__).parents[2] / "train_configs").glob("*.yaml"))
ENGINES = {
    "ddp": ["run.engine=ddp", "run.zero=null"],
    "ZeRO 1": ["run.zero.stage=1"],
    "ZeRO 2": ["run.zero.stage=2"],
    "ZeRO 3": ["run.zero.stage=3"],
    "ZeRO 3, weights on the host": ["run.zero.stage=3", "run.zero.offload_parameters=cpu"],
}
ZERO = ["run.engine=deepspeed", "run.zero.offload_optimizer=none"]
MACHINES = {"8 x A100 80 GB": ("a100-80gb", 8), "One GPU of 24 GB": ("rtx4090", 1)}
"""As the recipes' first lines say it."""

TOO_MUCH = {"video_llava_stage2_finetune": {"ddp", "ZeRO 1", "ZeRO 2"}}
"""All of 7B learns: float32 weights, gradients and moments are 16 bytes a parameter."""


@dataclass(frozen=True)
class Planned:
    """What is known of a recipe.

    Attributes:
        path: of its file.
        weights: of its model.
        memory: that its dearest step needs besides.
    """

    path: Path
    weights: Weights
    memory: StepMemory

    def needs(self, *options: str, num_gpus: int) -> int:
        """Return the bytes of one GPU."""
        config = load(self.path, options=options)
        refuse_unusable(config, device="cuda")
        lines = memory_lines(
            self.weights,
            sharding=sharding_of(config.run, world_size=num_gpus),
            activation_bytes=self.memory.total_bytes,
            logit_bytes=self.memory.logit_bytes,
        )
        return total(lines)


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: path.stem)
def planned(request):
    config = load(request.param)
    model, readers = meta_model(config.model), open_readers(config)
    assert misfits(model, readers) == []
    dearest = max(
        (step.memory for step in StepPlanner(config).steps(readers)),
        key=lambda memory: memory.total_bytes,
    )
    return Planned(request.param, count_weights(model), dearest)


def test_a_recipe_fits_the_machine_of_its_first_line(planned):
    first = planned.path.read_text().splitlines()[0]
    gpu, num_gpus = next(machine for words, machine in MACHINES.items() if words in first)
    assert planned.needs(num_gpus=num_gpus) <= memory_bytes(GPUS[gpu])


def test_a_recipe_takes_no_more_the_more_is_divided(planned):
    engines = {
        name: [*options, *([] if name == "ddp" else ZERO)] for name, options in ENGINES.items()
    }
    if load(planned.path).model.low_resource != "none":
        engines = {name: engines[name] for name in ("ddp", "ZeRO 1", "ZeRO 2")}
    needs = {name: planned.needs(*options, num_gpus=8) for name, options in engines.items()}
    room = memory_bytes(GPUS["a100-80gb"])
    assert {name for name in needs if needs[name] > room} == TOO_MUCH.get(planned.path.stem, set())
    # DeepSpeed's own buffers aside, every stage divides one thing more.
    ordered = [needs[name] for name in list(engines)[1:]]
    assert ordered == sorted(ordered, reverse=True)
    if "ZeRO 3" in needs:
        assert needs["ZeRO 3"] < needs["ddp"] / 1.1


def test_weights_in_fewer_bits_are_not_divided(planned):
    if load(planned.path).model.low_resource == "none":
        return
    with pytest.raises(ConfigError, match="run.zero.stage: 3 .* set run.zero.stage: 2"):
        planned.needs(*ENGINES["ZeRO 3"], *ZERO, num_gpus=8)
