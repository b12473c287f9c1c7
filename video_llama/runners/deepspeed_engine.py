"""The engine of ZeRO: moments, gradients and weights divided among the processes (DeepSpeed).

DeepSpeed divides, gathers and reduces. What a step is stays ours: the optimizer and its groups, the
learning rate, the precision, the loss scale, and by how much the loss is divided. To DeepSpeed the
model is float32 and its iterations are summed.

Checkpoints know nothing of it: state goes in and out whole, by our names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from video_llama.common.dist import World
from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.schema import Precision, RunConfig
from video_llama.common.types import Batch, LossOutput
from video_llama.models.precision import autocast
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.deepspeed_config import deepspeed_config, show, zero_settings
from video_llama.runners.divided_state import DividedState
from video_llama.runners.engine import AskedModel, has_float16, set_rates
from video_llama.runners.loss_scale import LossScale
from video_llama.runners.optimizer_state import moments_by_name
from video_llama.runners.partitioned import (
    EvaluatedModel,
    divide,
    frozen_heads,
    show_features,
    whole_model,
)
from video_llama.tasks.base import Model

MISSING = (
    "deepspeed is not installed; run: pip install 'video-llama[train]', or set run.engine: ddp"
)

NOT_NEWS = (
    "Setting accelerator to CPU",
    "torch.autocast is enabled outside DeepSpeed",
    "A module has unknown inputs or outputs type",
    "[Rank 0] [deepspeed] OVERFLOW",
)
"""Beginnings of DeepSpeed's warnings about what is meant to be so, or is said by the runner."""


class DeepSpeedEngine:
    """DeepSpeed behind the interface of `engine.Engine`.

    Args:
        model: on its device; for stage 3 better on the CPU, from where each process takes its
            share. It is changed for good.
        optimizer: over the trainable parameters, its groups carry `names`.
        world: this process among the others.
        device: of this process.
        run: the `run` section.

    Raises:
        ConfigError: DeepSpeed is not installed.
    """

    gives_copies = True

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        world: World,
        device: torch.device,
        run: RunConfig,
    ) -> None:
        zero = zero_settings(run)
        assert zero is not None, "the factory asks for this engine only where it is wanted"
        self.world = world
        self.device = device
        self.precision = run.precision
        self.stage = zero.stage
        parameters = {
            name: parameter
            for group in optimizer.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }
        self._scale = LossScale(is_enabled=run.precision == "fp16" or has_float16(model))
        config = deepspeed_config(run, world_size=world.size)
        get_logger().info("DeepSpeed is told:\n%s", show(config))
        deepspeed = _import_deepspeed(device, world=world)
        with contextlib.ExitStack() as hidden:
            self._heads = []
            if self.stage == 3:
                divide(model, config=config, device=device)
                self._heads = frozen_heads(model)
                for head in self._heads:
                    hidden.enter_context(head.hidden())
            root = _Root(model, precision=run.precision, device=device)
            self._engine, self._zero, *_ = deepspeed.initialize(
                model=root, optimizer=optimizer, config=config, dist_init_required=False
            )
        if self.stage == 3:
            show_features(model)
        self._state = DividedState(
            parameters, optimizer=self._zero, stage=self.stage, is_main=world.rank == 0
        )
        self._take_over_norm()

    @property
    def loss_scale(self) -> float:
        """See `Engine`."""
        return self._scale.value

    def model(self, batch: Batch) -> LossOutput:
        """See `Engine`."""
        loss_sum, output = self._engine(batch)
        return dataclasses.replace(output, loss_sum=loss_sum)

    @contextlib.contextmanager
    def accumulate(self, *, is_last: bool) -> Iterator[None]:
        """See `Engine`."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        yield

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """See `Engine`; within the model DeepSpeed needs it done again, see `_Root`."""
        return autocast(self.precision, device=self.device)

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        if self._scale.is_enabled:
            self._zero.override_loss_scale(self._scale.value)
        self._engine.backward(loss, scale_wrt_gas=False)

    def clip(self, max_norm: float | None) -> Tensor:
        """See `Engine`; gradients are scaled down in `step`."""
        self._zero.clip_grad = max_norm or 0.0
        self._norm = self._measure_norm()
        return self._whole_norm() / self.loss_scale

    def step(self, *, lr: float) -> None:
        """See `Engine`."""
        set_rates(self._zero, lr)
        self._engine.step()
        self._scale.update(overflowed=self._zero.overflow)

    def discard(self) -> None:
        """See `Engine`."""
        overflowed = not torch.isfinite(self._whole_norm())
        # A step whose norm is infinite is what DeepSpeed leaves out by itself.
        infinite = torch.tensor(torch.inf, device=self.device)
        self._norm = [infinite] if isinstance(self._norm, list) else infinite
        self._engine.step()
        self._scale.update(overflowed=overflowed)

    @contextlib.contextmanager
    def evaluating(self, model: Model) -> Iterator[AskedModel]:
        """See `Engine`."""
        if self.stage < 3:
            yield AskedModel(model)
            return
        llm = cast(VideoLLM, model)
        gathered = whole_model(llm, optimizer=self._zero, heads=self._heads)
        evaluated = EvaluatedModel(llm, loss=self.model, gathered=gathered)
        yield AskedModel(evaluated, meet=evaluated.meet)
        evaluated.meet()
        evaluated.close()

    def trainable_shapes(self) -> dict[str, torch.Size]:
        """See `Engine`."""
        return self._state.shapes()

    def trainable_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return self._state.weights()

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        self._state.load_weights(state)

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return self._state.moments() | self._scale.state()

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        by_name = moments_by_name(state, names=self._state.shapes())
        self._scale.load(state)
        if by_name:
            self._state.load_moments(by_name)

    def _whole_norm(self) -> Tensor:
        """Return the norm over all groups of parameters, infinite if one has none."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        norms = self._norm if isinstance(self._norm, list) else [self._norm]
        return cast(Tensor, combine_grad_norm_groups(norms))

    def _take_over_norm(self) -> None:
        """Let DeepSpeed's step use the norm that `clip` measured, in place of measuring it."""
        name = "_get_norm_groups" if self.stage == 3 else "scaled_global_norm"
        self._measure_norm: Callable[[], Any] = getattr(self._zero, name)
        setattr(self._zero, name, lambda: self._norm)


class _Root(nn.Module):
    """What DeepSpeed is given: tensors at the top, where it looks for them."""

    def __init__(self, model: nn.Module, *, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self._precision = precision
        self._device = device

    def forward(self, batch: Batch) -> tuple[Tensor, LossOutput]:
        """Compute the loss of a batch; DeepSpeed has turned autocast off around it."""
        with autocast(self._precision, device=self._device):
            output = self.model(batch)
        return output.loss_sum, output


def _import_deepspeed(device: torch.device, *, world: World) -> Any:
    """Import DeepSpeed, quietly and ready for this process.

    Raises:
        ConfigError: it is not installed.
    """
    # It looks for the GPU of this process here, and srun does not set it.
    os.environ["LOCAL_RANK"] = str(world.local_rank if device.index is None else device.index)
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: not record.getMessage().startswith(NOT_NEWS)
    )
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(f"run.engine: {MISSING}") from error
    if device.type == "cpu":
        # On CPUs it would compile an all-reduce through shared memory at every start.
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    # It takes over the process group there is.
    deepspeed.init_distributed()
    return deepspeed
