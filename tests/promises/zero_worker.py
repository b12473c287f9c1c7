"""What each of two ranks does for test_zero.py: all runs, one after the other, in one process."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from promises.recorded_collectives import recorded
from promises.recorded_task import FOLDER
from torch import nn

from video_llama.apps.train import build_runner
from video_llama.common.config import load
from video_llama.common.dist import World, process_group
from video_llama.common.generation import GenerationSettings
from video_llama.common.schema import RunConfig
from video_llama.common.types import LossOutput
from video_llama.common.zero import Zero
from video_llama.datasets.collate import EncodedSample, collate
from video_llama.models import loading
from video_llama.runners import deepspeed_config
from video_llama.runners.data import open_readers
from video_llama.runners.engines import build_engine
from video_llama.runners.folder import RunFolder
from video_llama.runners.optim import build_optimizer
from video_llama.runners.resume import plan_start
from video_llama.runners.runner import Runner


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: of its folder.
        options: as behind `--options`.
        from_step: where it starts, as (name of another job, step); None for step 0.
    """

    name: str
    options: tuple[str, ...] = ()
    from_step: tuple[str, int] | None = None


QUESTIONED = Job(
    "questioned", ("run.engine=deepspeed", "run.zero.stage=3"), from_step=("zero_3", 10)
)


def run_jobs(run_file: Path, jobs: list[Job]) -> None:
    """Run jobs in this process, and write down their collectives by rank."""
    # Else every weight of a tiny model would be whole everywhere.
    deepspeed_config.WHOLE_ELEMENTS = 0
    with recorded() as calls, process_group("cpu", also_alone=True) as world:
        for job in jobs:
            calls.clear()
            folder = train_job(run_file, job, world=world)
            path = folder / f"collectives{world.rank}.json"
            path.write_text(json.dumps(calls))
        said = ask(run_file, QUESTIONED, world=world)
        (run_file.parent / f"said{world.rank}.json").write_text(json.dumps(said))
        halves = [step_in_float16(stage, world=world) for stage in (0, 1, 2, 3)]
        (run_file.parent / f"halves{world.rank}.json").write_text(json.dumps(halves))


def ask(run_file: Path, job: Job, *, world: World) -> dict[str, Any]:
    """Let every rank ask a trained model something else; return what it said.

    Rank 0 computes a loss, scores a continuation and has 3 ids generated; rank 1 has 6.
    """
    runner = build(run_file, job, world=world)
    runner.folder.load(runner.engine)
    model = runner.model.eval()
    batch = next(runner.data.valid_batches()).batch
    said = {"before": runner.engine.model(batch).loss_sum.item()}
    with torch.no_grad(), runner.engine.evaluating(model) as asked:
        if world.rank == 0:
            said["loss"] = float(asked.model(batch).loss_sum)
            words = EncodedSample("", "", input_ids=[5, 6, 7], labels=[-100, 6, 7], slots=[0] * 3)
            continuations = collate([words], specs=model.branch_specs(), pad_id=0)
            score = asked.model.score(batch, continuations=continuations, rows=[0])
            said["score"] = float(score.loss_sum)
        settings = GenerationSettings(max_new_tokens=3 + 3 * world.rank, min_new_tokens=3)
        said["ids"] = asked.model.generate(batch, settings=settings)
        asked.meet()
    return said | {"after": runner.engine.model(batch).loss_sum.item()}


class Line(nn.Module):
    """A loss of 3 a + 4 b, so that its gradient is (3, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1, bias=False)
        nn.init.ones_(self.linear.weight)

    def forward(self, batch: None) -> LossOutput:
        loss = self.linear(torch.tensor([[3.0, 4.0]])).float().sum()
        return LossOutput(loss, torch.tensor(1), loss.detach()[None], torch.tensor([1]))


def step_in_float16(stage: int, *, world: World) -> list[tuple[float, float, list[float]]]:
    """Make steps that overflow, that do not, and one that is discarded.

    Args:
        stage: of ZeRO, 0 for DDP.
        world: this process among the others.

    Returns:
        Norm, loss scale and weights behind every step.
    """
    model = Line()
    zero = {"engine": "deepspeed", "zero": Zero(stage)} if stage else {}
    run = RunConfig("", "", precision="fp16", grad_clip_norm=0.5, **zero)
    optimizer = build_optimizer(model, run)
    engine = build_engine(
        model, optimizer=optimizer, run=run, world=world, device=torch.device("cpu")
    )
    behind = []
    for number, factor in enumerate((1000.0, 1000.0, 0.125, 0.25, 0.125, 0.5)):
        with engine.accumulate(is_last=True):
            with engine.autocast():
                output = engine.model(None)
            engine.backward(output.loss_sum * factor)
        norm = float(engine.clip(0.5))
        engine.discard() if number == 4 else engine.step(lr=0.1)
        weights = engine.trainable_state()
        shown = weights["linear.weight"].flatten().tolist() if weights else []
        behind.append((min(norm, 1e9), engine.loss_scale, shown))
    return behind


def train_job(run_file: Path, job: Job, *, world: World) -> Path:
    """Train one run; return its folder."""
    runner = build(run_file, job, world=world)
    runner.train()
    return runner.folder.path


def build(run_file: Path, job: Job, *, world: World) -> Runner:
    """Return the runner of a job."""
    folder = run_file.parent / job.name
    options = [f"run.output_dir={folder}", *job.options]
    if job.from_step is not None:
        name, step = job.from_step
        checkpoint = run_file.parent / name / "checkpoints" / f"step_{step:07d}"
        options.append(f"run.resume_ckpt_path={checkpoint}")
    record = folder / "record"
    record.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER] = str(record)
    config = load(run_file, options=options)
    start = plan_start(
        folder / "checkpoints", run=config.run, resolved=config.resolved, world_size=world.size
    )
    # Frozen parts with random weights are as good as any here.
    with patch.object(loading, "unfilled_parts", lambda model, filled: []):
        return build_runner(
            config,
            readers=open_readers(config),
            folder=RunFolder(folder, start=start),
            world=world,
            device="cpu",
        )
