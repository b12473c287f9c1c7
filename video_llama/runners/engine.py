"""How the processes of a run make one optimizer step together.

`Engine` is all the runner knows; this file has plain torch, alone or under DDP. Autocast is bf16,
which needs no loss scaling. An engine knows nothing of data, schedules or files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from video_llama.common.dist import World
from video_llama.common.errors import CheckpointMismatch

SEPARATOR = "::"
"""Between a parameter's name and its optimizer moment in a checkpoint."""


class Engine(Protocol):
    """One optimizer step, by whatever means.

    Attributes:
        model: what a training step calls; it may wrap the model that was handed in.
        world: this process among the others.
        device: where the batches go.
    """

    model: nn.Module
    world: World
    device: torch.device

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
        """Scale the gradients down to `max_norm` if given; return float[], the norm before."""
        ...

    def step(self, *, lr: float) -> None:
        """Update the parameters and clear the gradients."""
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the moments by name; every rank must call it."""
        ...

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the moments of a checkpoint back."""
        ...


class TorchEngine:
    """Plain torch in one process, DDP in several.

    Args:
        model: on its device already; parameters that do not train are never exchanged.
        optimizer: over the trainable parameters, its groups carry `names`.
        world: this process among the others.
        device: where the model is.
        amp: bf16 autocast in forward.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        world: World,
        device: torch.device,
        amp: bool,
    ) -> None:
        self.world = world
        self.device = device
        self.amp = amp
        self.optimizer = optimizer
        self.model = model if world.size == 1 else _distribute(model)

    def accumulate(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """See `Engine`."""
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """See `Engine`."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp)

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def clip(self, max_norm: float | None) -> Tensor:
        """See `Engine`."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)

    def step(self, *, lr: float) -> None:
        """See `Engine`."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return {
            f"{name}{SEPARATOR}{key}": value
            for name, parameter in self._named_parameters().items()
            for key, value in self.optimizer.state[parameter].items()
        }

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the moments of a checkpoint back.

        Raises:
            CheckpointMismatch: they belong to other parameters.
        """
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            name, _, moment = key.rpartition(SEPARATOR)
            by_name.setdefault(name, {})[moment] = value
        names = list(self._named_parameters())
        if set(names) != set(by_name):
            odd = sorted(set(names) ^ set(by_name))
            raise CheckpointMismatch(
                f"optimizer state: {len(odd)} parameters are only in the checkpoint or only in "
                f"the model, first {odd[0]}; start a new run from the weights by model.ckpt"
            )
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
