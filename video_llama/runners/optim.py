"""AdamW's parameter groups, and learning rates as pure functions of the optimizer step.

A schedule holds no state, so there is nothing of it to save or restore. `corrected` schedules
count the warm-up over the whole run and start the decay where it ends; `released` ones repeat what
Video-LLaMA's code computes (https://github.com/DAMO-NLP-SG/Video-LLaMA, 64888c0,
video_llama/common/optims.py): the warm-up restarts with every epoch it outlives, and the cosine
runs from step 0, so that the rate drops where the warm-up ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from video_llama.common.errors import ConfigError
from video_llama.common.registry import registry
from video_llama.common.schema import Config, RunConfig
from video_llama.models.sources import named_parts
from video_llama.runners.epochs import steps_per_epoch

Compat = Literal["corrected", "released"]

NORM_TYPES = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._NormBase,
)

WHOLE_MODEL = "model"
"""Name of the group of parameters that belong to no part."""


@dataclass(frozen=True)
class LrSpan:
    """The numbers a schedule is a function of, beside the step.

    Attributes:
        init_lr: peak, reached at the end of the warm-up.
        min_lr: lower end.
        warmup_lr: where the warm-up starts; `released` reads a negative one as `init_lr`.
        warmup_steps: optimizer steps of linear warm-up.
        num_epochs: epochs of the whole run.
        steps_per_epoch: optimizer steps of one epoch.
        decay_rate: factor per epoch of the step schedule.
        compat: whose arithmetic, see the module's head.
    """

    init_lr: float
    min_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup_steps: int = 0
    num_epochs: int = 1
    steps_per_epoch: int = 1
    decay_rate: float | None = None
    compat: Compat = "corrected"

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.num_epochs * self.steps_per_epoch


class Schedule(Protocol):
    """What is registered as a learning rate schedule."""

    def __call__(self, step: int, *, span: LrSpan) -> float:
        """Return the learning rate of a step."""
        ...


def accumulation_decides(compat: Compat) -> bool:
    """Say whether a step of as many samples in another number of iterations is another step.

    As published, schedules count iterations and a step sums the losses of its iterations.
    """
    return compat == "released"


class LearningRate:
    """The learning rate of a run as a function of the optimizer step.

    Args:
        run: the `run` section.
        compat: `corrected` counts optimizer steps; `released` counts iterations, as published,
            which differs under accumulation: the rate of a step is that of its last iteration.

    Raises:
        UnknownName: nobody registered `run.lr_sched`.
    """

    def __init__(self, run: RunConfig, *, compat: Compat) -> None:
        self._schedule: Schedule = registry.get_lr_scheduler_class(run.lr_sched)
        self._counts_per_step = run.accum_grad_iters if accumulation_decides(compat) else 1
        per_epoch = steps_per_epoch(run) * self._counts_per_step
        self._span = LrSpan(
            init_lr=run.init_lr,
            min_lr=run.min_lr,
            warmup_lr=run.warmup_lr,
            warmup_steps=_warmup_steps(run, num_steps=run.max_epoch * per_epoch),
            num_epochs=run.max_epoch,
            steps_per_epoch=per_epoch,
            decay_rate=run.lr_decay_rate,
            compat=compat,
        )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a 0-based optimizer step."""
        return self._schedule((step + 1) * self._counts_per_step - 1, span=self._span)


@registry.register_lr_scheduler("linear_warmup_cosine_lr")
def linear_warmup_cosine_lr(step: int, *, span: LrSpan) -> float:
    """Warm up linearly, then fall along half a cosine.

    Args:
        step: optimizer step, 0-based.
        span: the run's numbers.

    Returns:
        The learning rate of that step.
    """
    if span.compat == "released":
        if step < span.warmup_steps:
            return _warmup(step % span.steps_per_epoch, span=span)
        done = step / span.num_steps
    elif step < span.warmup_steps:
        return _warmup(step, span=span)
    else:
        done = _decay_done(step, span=span)
    return span.min_lr + (span.init_lr - span.min_lr) * 0.5 * (1.0 + math.cos(math.pi * done))


@registry.register_lr_scheduler("linear_warmup_step_lr")
def linear_warmup_step_lr(step: int, *, span: LrSpan) -> float:
    """Warm up linearly, then multiply by `decay_rate` after every epoch, not below `min_lr`.

    `released` decays by the epoch's number and warms up within epoch 0 only.
    """
    epoch, step_in_epoch = divmod(step, span.steps_per_epoch)
    if span.compat == "released":
        if epoch == 0 and step_in_epoch < span.warmup_steps:
            return _warmup(step_in_epoch, span=span)
    elif step < span.warmup_steps:
        return _warmup(step, span=span)
    else:
        epoch = (step - span.warmup_steps) // span.steps_per_epoch
    assert span.decay_rate is not None, "the run section asks for it"
    return max(span.min_lr, span.init_lr * span.decay_rate**epoch)


@registry.register_lr_scheduler("linear_warmup_linear_lr")
def linear_warmup_linear_lr(step: int, *, span: LrSpan) -> float:
    """Warm up linearly, then fall linearly to `min_lr`."""
    if step < span.warmup_steps:
        return _warmup(step, span=span)
    return span.init_lr + (span.min_lr - span.init_lr) * _decay_done(step, span=span)


@registry.register_lr_scheduler("constant_lr")
def constant_lr(step: int, *, span: LrSpan) -> float:
    """Warm up linearly, then stay at `init_lr`."""
    return _warmup(step, span=span) if step < span.warmup_steps else span.init_lr


def lr_scales(config: Config) -> dict[str, float]:
    """Return every part's share of the run's learning rate, by its name in the model.

    A part with an `lr` of its own follows the run's schedule on another scale, so that its peak is
    that `lr`; warm-up and decay take the same steps everywhere.

    Raises:
        ConfigError: a part has an `lr`, and the run's is 0.
    """
    parts = {**dict(named_parts(config.model)), "decoder": config.model.decoder}
    rates = {name: part.lr for name, part in parts.items() if part.lr is not None}
    peak = config.run.init_lr
    if rates and not peak:
        raise ConfigError(
            [
                f"model.{name}.lr: {lr} is a multiple of run.init_lr, which is 0; set run.init_lr"
                for name, lr in rates.items()
            ]
        )
    return {name: rates[name] / peak if name in rates else 1.0 for name in parts}


def learning_scales(config: Config) -> dict[str, float]:
    """Return `lr_scales` of the parts that learn."""
    parts = {**dict(named_parts(config.model)), "decoder": config.model.decoder}
    return {name: scale for name, scale in lr_scales(config).items() if parts[name].trainable}


def param_groups(
    model: nn.Module, *, weight_decay: float, scales: Mapping[str, float] | None = None
) -> list[dict[str, object]]:
    """Sort the trainable parameters by whether they decay, and by the part they belong to.

    Vectors, biases and whatever a normalisation layer owns do not decay; matrices do, query
    tokens and position tables among them, as published (runner_base.py, 64888c0). The rule goes by
    module type and number of axes, never by parts of a name.

    Args:
        model: parameters with `requires_grad` are taken, shared ones once.
        weight_decay: of what decays.
        scales: factor of the learning rate, by part; the model is one part if there are none.

    Returns:
        Groups for a torch optimizer: all that decay, then the others. Each has `params`,
        `weight_decay`, the `name` of its part, its `lr_scale`, and the `names` of its parameters
        in the model.

    Raises:
        ValueError: nothing is trainable.
    """
    exempt = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, NORM_TYPES)
        for parameter in module.parameters(recurse=False)
    }
    scales = scales or {}
    members: dict[tuple[bool, str], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_bias = name.rpartition(".")[2].endswith("bias")
            free = parameter.ndim < 2 or is_bias or id(parameter) in exempt
            part = next((part for part in scales if name.startswith(f"{part}.")), WHOLE_MODEL)
            members.setdefault((free, part), []).append((name, parameter))
    if not members:
        raise ValueError("the model has no trainable parameter; set `trainable: true` on a part")
    return [
        {
            "name": part,
            "params": [parameter for _, parameter in group],
            "names": [name for name, _ in group],
            "weight_decay": 0.0 if free else weight_decay,
            "lr_scale": scales.get(part, 1.0),
        }
        for (free, part), group in sorted(members.items(), key=lambda item: item[0][0])
    ]


def build_optimizer(
    model: nn.Module, run: RunConfig, *, scales: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """Build AdamW over the model's trainable parameters; `scales` as for `param_groups`.

    Torch's default is many kernels for a parameter on the CPU, many parameters for a kernel on a
    GPU; on the CPU one kernel for a parameter is faster.
    """
    groups = param_groups(model, weight_decay=run.weight_decay, scales=scales)
    kinds = {p.device.type for p in model.parameters() if p.requires_grad}
    fused = True if kinds == {"cpu"} else None
    return torch.optim.AdamW(groups, lr=run.init_lr, betas=(0.9, run.beta2), fused=fused)


def _warmup_steps(run: RunConfig, *, num_steps: int) -> int:
    """Return the length of the warm-up; a share is rounded up, as transformers does."""
    if run.warmup_ratio is None:
        return run.warmup_steps
    return math.ceil(run.warmup_ratio * num_steps)


def _warmup(step: int, *, span: LrSpan) -> float:
    """Learning rate on the straight line from `warmup_lr` to `init_lr`."""
    start = span.init_lr if span.warmup_lr < 0 else span.warmup_lr
    return min(span.init_lr, start + (span.init_lr - start) * step / max(span.warmup_steps, 1))


def _decay_done(step: int, *, span: LrSpan) -> float:
    """Share of the steps after the warm-up that lies behind, 0..1."""
    return min(1.0, (step - span.warmup_steps) / max(span.num_steps - span.warmup_steps, 1))
