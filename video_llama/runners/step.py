"""One optimizer step up to the moment the weights would change: batches, losses, gradients.

The loss of a step is the sum over its supervised tokens, on all ranks and in all iterations,
divided by their number: how a step is cut up changes nothing. What happens in a step is a function
of the weights, the seed and the step's number alone.

Whether the weights then do change, and what is written down, is the runner's affair.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

import torch
from torch import Tensor

from video_llama.common import dist
from video_llama.common.rng import fold
from video_llama.common.schema import Config
from video_llama.common.types import LossOutput
from video_llama.datasets.collate import LoadedBatch
from video_llama.runners.data import RunData
from video_llama.runners.engine import Engine
from video_llama.runners.flop_rate import FlopRate
from video_llama.runners.modalities import Loss, by_name, sum_by_modality
from video_llama.runners.signals import StopRequest
from video_llama.runners.watchdog import Heartbeat
from video_llama.tasks.base import Model, Task


@dataclass(frozen=True)
class StepRecord:
    """What an optimizer step came to; sums are over all ranks and iterations.

    Attributes:
        step: its number, from 0.
        dataset: it was drawn from.
        lr: learning rate.
        loss_sum: in nats over the supervised tokens.
        num_targets: supervised tokens.
        num_tokens: decoder positions that are not padding.
        num_samples: samples.
        num_skips: samples that could not be used.
        num_items: clips, pictures and sounds.
        modalities: losses by the kinds of media in a sample.
        flops: operations, None if nobody counts them.
        grad_norm: before clipping, the mean of what the ranks found, which should be equal.
        data_wait_s: seconds this rank waited for its batches.
        is_left_out: the weights stay as they were.
        loaded: this rank's batches, one per iteration.
        outputs: this rank's losses, one per iteration, without graph.
    """

    step: int
    dataset: str
    lr: float
    loss_sum: float
    num_targets: int
    num_tokens: int
    num_samples: int
    grad_norm: float
    num_skips: int = 0
    num_items: int = 0
    modalities: Mapping[str, Loss] = field(default_factory=dict)
    flops: float | None = None
    data_wait_s: float = 0.0
    is_left_out: bool = False
    loaded: Sequence[LoadedBatch] = ()
    outputs: Sequence[LossOutput] = ()

    @property
    def loss(self) -> float:
        """In nats per supervised token."""
        return self.loss_sum / max(self.num_targets, 1)


class StepMaker:
    """Reads the batches of a step and adds up their gradients.

    Args:
        config: the run file.
        task: what is minimised.
        data: keeps what frozen encoders computed.
        engine: how a step is made.
        heartbeat: is told how far this process is.
        flop_rate: counts operations, None for nobody.
        stands_for: ranks whose iterations this process makes one after another, in a replay.
    """

    def __init__(
        self,
        config: Config,
        *,
        task: Task,
        data: RunData,
        engine: Engine,
        heartbeat: Heartbeat,
        flop_rate: FlopRate | None = None,
        stands_for: int = 1,
    ) -> None:
        self.stands_for = stands_for
        self.heartbeat = heartbeat
        self.flop_rate = flop_rate
        self.config = config
        self.run = config.run
        self.task = task
        self.data = data
        self.engine = engine

    @property
    def peak_flops(self) -> float | None:
        """Operations per second of all GPUs at best, None if unknown."""
        return None if self.flop_rate is None else self.flop_rate.peak * self.engine.world.size

    def measure(
        self, batches: Iterator[LoadedBatch], *, step: int, lr: float, request: StopRequest
    ) -> StepRecord | None:
        """Compute losses and clipped gradients; the weights are not changed.

        Args:
            batches: this rank's, from this step on.
            step: its number, from 0.
            lr: learning rate, for the record.
            request: whether this process was asked to stop.

        Returns:
            None if any rank was asked to stop before the last iteration; what was added up so far
            then counts for nothing.
        """
        self.heartbeat.beat("reading data", step=step)
        asked_s = time.perf_counter()
        loaded = request.wait_for(lambda: list(islice(batches, self.run.accum_grad_iters)))
        data_wait_s = time.perf_counter() - asked_s
        self.heartbeat.beat("computing", step=step)
        num_targets = [item.batch.num_targets for item in loaded or ()]
        # All ranks know before any begins a forward pass, which may wait for the others: ZeRO-3
        # gathers weights in it, and DDP agrees on its buckets in the second.
        total = request.sum_unless_asked(sum(num_targets))
        if total is None or loaded is None:
            return None
        assert len(loaded) == self.run.accum_grad_iters, "the plan ended before the run"
        outputs: list[LossOutput] = []
        for index, item in enumerate(loaded):
            self.heartbeat.beat("computing", step=step, part=index + 1)
            if index and request.on_any_rank:
                return None
            if self.config.model.compat == "released":
                scale = 1.0 / (max(num_targets[index], 1) * self.stands_for)
            else:
                # The engine averages over the ranks; the step's tokens are to be averaged.
                scale = self.engine.world.size / max(total, 1)
            outputs.append(self._iterate(item, step=step, index=index, scale=scale))
        own_norm = float(self.engine.clip(self.run.grad_clip_norm))
        own = self._sums(loaded, outputs=outputs, grad_norm=own_norm)
        loss_sum, grad_norm, num_tokens, num_skips, num_samples, num_items, flops, *modalities = (
            dist.sum_over_ranks(own).tolist()
        )
        return StepRecord(
            step=step,
            dataset=loaded[0].batch.dataset,
            lr=lr,
            loss_sum=loss_sum,
            num_targets=total,
            num_tokens=int(num_tokens),
            num_samples=int(num_samples),
            grad_norm=grad_norm / self.engine.world.size,
            num_skips=int(num_skips),
            num_items=int(num_items),
            modalities=by_name(modalities),
            flops=None if self.flop_rate is None else flops,
            data_wait_s=data_wait_s,
            loaded=loaded,
            outputs=outputs,
        )

    def _sums(
        self, loaded: Sequence[LoadedBatch], *, outputs: Sequence[LossOutput], grad_norm: float
    ) -> Tensor:
        """Return this rank's share of the numbers of a step, those by modality at the end."""
        batches = [item.batch for item in loaded]
        own = self._on_device(
            [
                float(torch.stack([output.loss_sum for output in outputs]).sum()),
                grad_norm,
                sum(int(batch.attention_mask.sum()) for batch in batches),
                sum(len(item.skips) for item in loaded),
                sum(len(batch.keys) for batch in batches),
                sum(len(batch.items) for batch in batches),
                sum(map(self.flop_rate.flops, batches)) if self.flop_rate is not None else 0.0,
            ]
        )
        return torch.cat([own, sum_by_modality(batches, outputs, like=own)])

    def _iterate(self, loaded: LoadedBatch, *, step: int, index: int, scale: float) -> LossOutput:
        """Add the gradients of one iteration; return its losses without the graph."""
        iteration, part = divmod(index, self.stands_for)
        rank = self.engine.world.rank + part
        torch.manual_seed(dropout_seed(self.run.seed, step=step, iteration=iteration, rank=rank))
        with self.engine.accumulate(is_last=index == self.run.accum_grad_iters - 1):
            with self.engine.autocast():
                output = self.task.train_step(cast(Model, self.engine.model), loaded.batch)
            self.engine.backward(output.loss_sum * scale)
        self.data.keep(output.frontier, loaded)
        return dataclasses.replace(output, loss_sum=output.loss_sum.detach(), frontier={})

    def _on_device(self, values: Sequence[float]) -> Tensor:
        """Return numbers where the ranks can add them up; Apple's GPUs have no float64."""
        dtype = torch.float32 if self.engine.device.type == "mps" else torch.float64
        return torch.tensor(values, dtype=dtype, device=self.engine.device)


def dropout_seed(seed: int, *, step: int, iteration: int, rank: int) -> int:
    """Return what torch's generators are seeded with before a forward pass of a run."""
    return fold(seed, "dropout", step, iteration, rank)


def finite_or_none(value: float) -> float | None:
    """Return the number, None for what JSON has no word for."""
    return value if math.isfinite(value) else None
