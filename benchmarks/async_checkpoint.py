"""How long a training step waits for a checkpoint, with and without `run.async_save`.

    OMP_NUM_THREADS=1 python benchmarks/async_checkpoint.py --mb 400 --device cpu

Saves a model and its AdamW moments several times through the real run folder, with steps in
between, and prints rows of `RESULTS.md`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from video_llama.common.dist import World
from video_llama.common.logger import get_logger, start_logging
from video_llama.common.schema import Config, ModelConfig, PartConfig, RunConfig
from video_llama.runners.checkpoint import RunState
from video_llama.runners.engine import TorchEngine
from video_llama.runners.folder import RunFolder
from video_llama.runners.optim import build_optimizer
from video_llama.runners.resume import Start

NUM_SAVES = 5
WIDTH = 1024
STEP_ROWS = 16


@dataclass(frozen=True)
class Times:
    """Medians, in seconds.

    Attributes:
        stall_s: a step waits so long for a save.
        step_s: a step takes so long while nothing is written.
        busy_step_s: a step takes so long while a checkpoint is written.
        write_s: from the save to the checkpoint's place on the disk.
    """

    stall_s: float
    step_s: float
    busy_step_s: float
    write_s: float


def main() -> None:
    """Print one row for each way of saving."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=400, help="size of weights and moments, in MB")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    start_logging()
    for saves_beside in (False, True):
        times = measure(args.mb, device=args.device, saves_beside=saves_beside)
        get_logger().info(
            "| %s | %s | %d MB | %.3f s | %.2f s | %.3f s | %.3f s |",
            args.device, str(saves_beside).lower(), args.mb, times.stall_s, times.write_s,
            times.step_s, times.busy_step_s,
        )  # fmt: skip


def measure(num_mb: int, *, device: str, saves_beside: bool) -> Times:
    """Save several times, with steps in between until the checkpoint is on the disk."""
    # A parameter and its two moments, of four bytes each.
    num_layers = max(num_mb * 10**6 // (12 * WIDTH * WIDTH), 1)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(num_layers)))
    model.to(device)
    stalls, quiet, busy, writes = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        run = RunConfig(task="none", output_dir=name, device=device, async_save=saves_beside)
        part = PartConfig("none", None)
        config = Config(ModelConfig("none", "none", {}, part, "none"), {}, run)
        optimizer = build_optimizer(model, run)
        engine = TorchEngine(
            model, optimizer=optimizer, world=World(), device=torch.device(device), precision="fp32"
        )
        folder = RunFolder(Path(name), start=Start())
        rows = torch.randn(STEP_ROWS, WIDTH, device=device)
        with folder.opened(config):
            step(engine, rows)
            for number in range(NUM_SAVES):
                quiet += [step(engine, rows) for _ in range(3)]
                state = RunState(step=number + 1, steps_per_epoch=1, global_batch_size=1)
                target = folder.checkpoints / f"step_{number + 1:07d}"
                started_s = time.perf_counter()
                folder.save(engine=engine, state=state, keep_last=1)
                stalls.append(time.perf_counter() - started_s)
                while not target.exists():
                    busy.append(step(engine, rows))
                writes.append(time.perf_counter() - started_s)
    median = statistics.median
    return Times(median(stalls), median(quiet), median(busy or quiet), median(writes))


def step(engine: TorchEngine, rows: torch.Tensor) -> float:
    """Make one optimizer step; return its seconds."""
    started_s = time.perf_counter()
    engine.backward(engine.model(rows).square().mean())
    engine.clip(1.0)
    engine.step(lr=1e-4)
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
