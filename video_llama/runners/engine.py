"""How the processes of a run make one optimizer step together.

`Engine` is all the runner knows; this file has plain torch, alone or under DDP. An engine knows
nothing of data, schedules or files.

float16 holds nothing below 6e-8, where most gradients are. So wherever it is used the loss is
scaled up before the backward pass, and a step whose gradients overflow is left out and the scale
halved (Micikevicius et al. 2018, section 3.2). bfloat16 reaches as low as float32 and needs none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from video_llama.common.dist import World
from video_llama.common.schema import Precision
from video_llama.common.types import Batch, LossOutput
from video_llama.models.precision import autocast
from video_llama.runners.optimizer_state import (
    NUM_GOOD_STEPS,
    SCALE,
    SEPARATOR,
    moments_by_name,
)
from video_llama.tasks.base import Model


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class AskedModel:
    """A model as a task asks it between two steps, when ranks have different things to ask.

    Attributes:
        model: stands for the model.
        meet: to be called by every rank after each batch, also by those that have none left.
    """

    model: Model
    meet: Callable[[], None] = nothing


class Engine(Protocol):
    """One optimizer step, by whatever means.

    Attributes:
        model: what a training step calls; it may wrap the model that was handed in, and change it.
        world: this process among the others.
        device: where the batches go.
        gives_copies: the state it returns is on the CPU and nobody changes it.
        loss_scale: what the loss is multiplied by before the backward pass; above 1 a step whose
            gradients are not finite is left out, and the next has a smaller scale.
    """

    world: World
    device: torch.device
    gives_copies: bool

    @property
    def model(self) -> Callable[[Batch], LossOutput]:
        """See above."""
        ...

    @property
    def loss_scale(self) -> float:
        """See above."""
        ...

    def accumulate(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Surround forward and backward of an iteration; gradients travel in a step's last."""
        ...

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Surround a forward pass alone; chooses the precision."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add a iteration's gradients; over the ranks they are averaged, not summed."""
        ...

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale the gradients down to `max_norm` if given, once a step, before `step`.

        Returns:
            float[], the norm before, without the loss scale.
        """
        ...

    def step(self, *, lr: float) -> None:
        """Update the parameters, unless the loss scale was too high, and clear the gradients.

        Args:
            lr: of the schedule; a group of parameters with an `lr_scale` multiplies it by that.
        """
        ...

    def discard(self) -> None:
        """Clear the gradients and leave the parameters as they are, in place of `step`."""
        ...

    def evaluating(self, model: Model) -> contextlib.AbstractContextManager[AskedModel]:
        """Surround an evaluation; every rank must enter it.

        Args:
            model: the one that was handed in, in evaluation mode.
        """
        ...

    def trainable_shapes(self) -> dict[str, torch.Size]:
        """Return the whole shape of every trained parameter, by its name in the model."""
        ...

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the trained parameters by name, whole; every rank must call it.

        Returns:
            On rank zero all of them, in use still unless `gives_copies`; elsewhere perhaps none.
        """
        ...

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `trainable_state` returned; names and shapes fit."""
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the moments and the loss scaling by name; as `trainable_state` does."""
        ...

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `optimizer_state` returned."""
        ...


class TorchEngine:
    """Plain torch in one process, DDP in several.

    Args:
        model: on its device already; parameters that do not train are never exchanged.
        optimizer: over the trainable parameters, its groups carry `names`.
        world: this process among the others.
        device: where the model is.
        precision: of the forward pass.
    """

    gives_copies = False

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        world: World,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.world = world
        self.device = device
        self.precision = precision
        self.optimizer = optimizer
        uses_float16 = precision == "fp16" or has_float16(model)
        self._scaler = GradScaler(device.type, enabled=uses_float16)
        self.model = model if world.size == 1 else _distribute(model)

    @property
    def loss_scale(self) -> float:
        """See `Engine`."""
        return self._scaler.get_scale()

    def accumulate(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """See `Engine`."""
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """See `Engine`."""
        return autocast(self.precision, device=self.device)

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def clip(self, max_norm: float | None) -> Tensor:
        """See `Engine`."""
        self._scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)

    def step(self, *, lr: float) -> None:
        """See `Engine`."""
        set_rates(self.optimizer, lr)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def discard(self) -> None:
        """See `Engine`."""
        # What `clip` found out is for this step alone.
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def evaluating(self, model: Model) -> contextlib.AbstractContextManager[AskedModel]:
        """See `Engine`."""
        return contextlib.nullcontext(AskedModel(model))

    def trainable_shapes(self) -> dict[str, torch.Size]:
        """See `Engine`."""
        return {name: parameter.shape for name, parameter in self._named_parameters().items()}

    def trainable_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return {name: parameter.detach() for name, parameter in self._named_parameters().items()}

    @torch.no_grad()
    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        for name, parameter in self._named_parameters().items():
            parameter.copy_(state[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        moments = {
            f"{name}{SEPARATOR}{key}": value
            for name, parameter in self._named_parameters().items()
            for key, value in self.optimizer.state[parameter].items()
        }
        scaling = self._scaler.state_dict()
        if not scaling:
            return moments
        return moments | {
            SCALE: torch.tensor(scaling["scale"]),
            NUM_GOOD_STEPS: torch.tensor(scaling["_growth_tracker"]),
        }

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the moments and the loss scaling of a checkpoint back.

        Raises:
            CheckpointMismatch: they belong to other parameters.
        """
        names = self._named_parameters()
        by_name = moments_by_name(state, names=names)
        if SCALE in state:
            found = {"scale": state[SCALE].item(), "_growth_tracker": state[NUM_GOOD_STEPS].item()}
            self._scaler.load_state_dict(self._scaler.state_dict() | found)
        if not by_name:
            return
        # Torch numbers parameters by their order over the groups, which is the order of `names`.
        whole = self.optimizer.state_dict()
        whole["state"] = {index: by_name[name] for index, name in enumerate(names)}
        self.optimizer.load_state_dict(whole)

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        return {
            name: parameter
            for group in self.optimizer.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }


def has_float16(model: nn.Module) -> bool:
    """Tell whether gradients pass float16 weights, a frozen decoder's for instance."""
    return any(parameter.dtype is torch.float16 for parameter in model.parameters())


def set_rates(optimizer: Any, lr: float) -> None:
    """Set the learning rate of every group of parameters, given the schedule's."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def _distribute(model: nn.Module) -> DistributedDataParallel:
    """Wrap for DDP; what is frozen is equal on all ranks by construction and stays out of it."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
        model, frozen + buffers
    )
    return DistributedDataParallel(
        model, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=False
    )
