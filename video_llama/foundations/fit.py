"""The one training loop of the picture and sound foundations: AdamW, warm-up, linear decay.

It knows nothing of what is learned: the caller gives a loss for a set of example indices and a
probe for the curve. One thread and one seed give the same weights on the same machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from video_llama.common.logger import get_logger


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        num_steps: optimizer steps.
        batch_size: examples a step.
        lr: highest learning rate, after the warm-up; it falls linearly to 0.
        warmup_steps: steps of linear rise from 0.
        weight_decay: of AdamW, on matrices only.
        grad_clip_norm: largest norm of the gradient.
        probe_every: steps between points of the curve.
    """

    num_steps: int
    batch_size: int
    lr: float
    warmup_steps: int = 50
    weight_decay: float = 0.02
    grad_clip_norm: float = 1.0
    probe_every: int = 250

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup_steps)
        return self.lr * min(rise, 1 - step / self.num_steps)


Curve = list[dict[str, float]]


@dataclass(frozen=True)
class Gate:
    """One number a foundation must reach.

    Attributes:
        name: what is measured.
        value: what was measured on held-out data.
        bar: what it must reach.
        lower_is_better: true for errors.
    """

    name: str
    value: float
    bar: float
    lower_is_better: bool = False

    @property
    def is_passed(self) -> bool:
        """Tell whether the bar is reached."""
        return self.value <= self.bar if self.lower_is_better else self.value >= self.bar


@dataclass(frozen=True)
class Trained:
    """What the pretraining of an encoder gives.

    Attributes:
        files: published names and tensors, by file name.
        curve: training curve.
        gates: what held-out data say.
    """

    files: Mapping[str, Mapping[str, Tensor]]
    curve: Curve
    gates: tuple[Gate, ...]


def fit(
    modules: Sequence[nn.Module],
    *,
    loss_of: Callable[[Tensor], Tensor],
    num_examples: int,
    schedule: Schedule,
    seed: int,
    probe: Callable[[], dict[str, float]],
    name: str,
) -> Curve:
    """Train modules in place.

    Args:
        modules: whose parameters are trained.
        loss_of: from int64[B] example indices to the loss float[].
        num_examples: the indices lie below it; every one is drawn once before any comes again.
        schedule: how long and how fast.
        seed: of the order of the examples.
        probe: measures on held-out data, in any mode it likes; called with gradients off.
        name: in the log.

    Returns:
        One point per probe: step, cpu_s (of this process), loss (mean since the last) and what
        the probe gave.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, 0.98))
    order = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    curve, losses, start_s = [], [], time.process_time()
    for step in range(schedule.num_steps):
        if len(waiting) < schedule.batch_size:
            waiting = torch.cat([waiting, torch.randperm(num_examples, generator=order)])
        rows, waiting = waiting[: schedule.batch_size], waiting[schedule.batch_size :]
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(step)
        loss = loss_of(rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, schedule.grad_clip_norm)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % schedule.probe_every == 0 or step + 1 == schedule.num_steps:
            point = {"step": step + 1, "cpu_s": round(time.process_time() - start_s, 1)}
            point["loss"] = round(sum(losses) / len(losses), 4)
            with torch.no_grad():
                point |= {key: round(value, 4) for key, value in probe().items()}
            get_logger().info("%s: %s", name, json.dumps(point))
            curve.append(point)
            losses.clear()
    return curve


def write_curve(path: Path, curve: Curve) -> None:
    """Write a curve as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(point) + "\n" for point in curve), encoding="ascii")
