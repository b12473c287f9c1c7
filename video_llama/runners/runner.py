"""The only training loop of the project.

An iteration is one forward pass per rank, an optimizer step is `accum_grad_iters` of them, and an
epoch is a number of iterations, not a pass over the data. The loss of a step is the sum over its
supervised tokens, on all ranks and in all iterations, divided by their number: how a step is cut
up changes nothing. What happens in a step is a function of the seed and the step's number alone.

The loop knows no readers, see `data`; no files, see `folder`; and not how several processes make
one step, see `engine`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from video_llama.common import dist
from video_llama.common.logger import get_logger
from video_llama.common.registry import registry
from video_llama.common.rng import fold
from video_llama.common.schema import Config
from video_llama.common.types import IGNORE_INDEX, Batch, LossOutput
from video_llama.datasets.collate import LoadedBatch
from video_llama.runners.checkpoint import RunState
from video_llama.runners.data import CachingModel, RunData
from video_llama.runners.engine import Engine
from video_llama.runners.folder import SKIPPED_FILE, RunFolder
from video_llama.runners.metrics import ProgressBar, Window
from video_llama.runners.optim import LearningRate
from video_llama.runners.sanity import StartCheck, bad_samples, not_finite
from video_llama.runners.signals import StopRequest
from video_llama.runners.skips import SkipCounts
from video_llama.tasks.base import Model, Task

BEST_METRIC = "valid_loss"
"""What decides which checkpoint is the best, in nats per token; lower is better."""


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        folder: where everything is.
        state: where it stands.
        num_steps: optimizer steps of the whole run.
    """

    folder: Path
    state: RunState
    num_steps: int

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.state.step >= self.num_steps


@registry.register_runner("runner_base")
class Runner:
    """Trains a model to the end of its run file, from wherever it was left.

    Args:
        config: the run file.
        model: on the engine's device.
        task: what is minimised, and how the result is measured.
        data: what is read.
        engine: how a step is made.
        folder: where the run is kept, and where it starts.
        start_check: looks at the first steps, None for no look.
    """

    def __init__(
        self,
        config: Config,
        *,
        model: nn.Module,
        task: Task,
        data: RunData,
        engine: Engine,
        folder: RunFolder,
        start_check: StartCheck | None = None,
    ) -> None:
        self.config = config
        self.run = config.run
        self.model = model
        self.task = task
        self.data = data
        self.engine = engine
        self.folder = folder
        self.start_check = start_check
        run, world = config.run, engine.world
        self._saved_step: int | None = None
        self.learning_rate = LearningRate(run, compat=config.model.compat)
        self.steps_per_epoch = run.iters_per_epoch // run.accum_grad_iters
        self.num_steps = run.max_epoch * self.steps_per_epoch
        self.state = folder.start.state or RunState(
            step=0,
            steps_per_epoch=self.steps_per_epoch,
            global_batch_size=run.batch_size_train * run.accum_grad_iters * world.size,
            config=config.resolved,
        )

    def train(self) -> RunSummary:
        """Run the loop; on SIGTERM or SIGINT finish the step, save and return.

        Raises:
            VideoLlamaError: a loss or gradient is not finite, too many samples cannot be used, or a
                checkpoint cannot be written.
        """
        self.folder.load(self.model, engine=self.engine)
        self.model.train()
        bar = ProgressBar(num_steps=self.num_steps, step=self.state.step)
        with self.folder.opened(self.config), StopRequest() as request, bar:
            batches = self.data.train_batches(self.state.step)
            window = Window()
            must_stop = False
            while self.state.step < self.num_steps and not must_stop:
                lr = self.learning_rate(self.state.step)
                must_stop = self._step(batches, lr=lr, window=window, request=request)
                bar.advance(self.state.step)
                if is_due(self.run.log_freq, at=self.state.step, last=self.num_steps):
                    values = {"lr": lr, **window.record()}
                    self.folder.write(self.state.step, kind="train", values=values)
                    bar.show(self.state.step, values=values)
                    window = Window()
                if self.state.step % self.steps_per_epoch == 0:
                    self._end_epoch()
            if must_stop:
                self._save()
        return RunSummary(folder=self.folder.path, state=self.state, num_steps=self.num_steps)

    def _step(
        self, batches: Iterator[LoadedBatch], *, lr: float, window: Window, request: StopRequest
    ) -> bool:
        """Make one optimizer step; return whether any rank was asked to stop."""
        asked_s = time.perf_counter()
        loaded = list(islice(batches, self.run.accum_grad_iters))
        window.data_wait_s += time.perf_counter() - asked_s
        assert len(loaded) == self.run.accum_grad_iters, "the plan ended before the run"
        num_targets = [count_targets(item.batch) for item in loaded]
        total = int(dist.sum_over_ranks(self._on_device([sum(num_targets)]))[0])
        outputs = []
        for index, item in enumerate(loaded):
            if self.config.model.compat == "released":
                scale = 1.0 / max(num_targets[index], 1)
            else:
                # The engine averages over the ranks; the step's tokens are to be averaged.
                scale = self.engine.world.size / max(total, 1)
            outputs.append(self._iterate(item, index=index, scale=scale))
        loss_sum, num_tokens, num_skipped, num_asked = dist.sum_over_ranks(
            self._on_device(
                [
                    float(torch.stack([output.loss_sum for output in outputs]).sum()),
                    sum(int(item.batch.attention_mask.sum()) for item in loaded),
                    sum(len(item.skips) for item in loaded),
                    request.received is not None,
                ]
            )
        ).tolist()
        grad_norm = float(self.engine.clip(self.run.grad_clip_norm))
        self._check_finite(loaded, outputs=outputs, loss_sum=loss_sum, grad_norm=grad_norm)
        self.engine.step(lr=lr)
        if self.start_check is not None:
            mean = loss_sum / max(total, 1)
            self.start_check(self.state.step, loss=mean, batch=loaded[0].batch)
        self.state = dataclasses.replace(self.state, step=self.state.step + 1)
        window.add(
            dataset=loaded[0].batch.dataset,
            loss_sum=loss_sum,
            num_targets=total,
            num_tokens=int(num_tokens),
            num_samples=self.state.global_batch_size,
            grad_norm=grad_norm,
        )
        if num_skipped:
            self._count_skips(loaded)
        return bool(num_asked)

    def _iterate(self, loaded: LoadedBatch, *, index: int, scale: float) -> LossOutput:
        """Add the gradients of one iteration; return its losses without the graph."""
        rank = self.engine.world.rank
        torch.manual_seed(fold(self.run.seed, "dropout", self.state.step, index, rank))
        with self.engine.accumulate(is_last=index == self.run.accum_grad_iters - 1):
            with self.engine.autocast():
                output = self.task.train_step(cast(Model, self.engine.model), loaded.batch)
            self.engine.backward(output.loss_sum * scale)
        self.data.keep(output.frontier, loaded)
        return dataclasses.replace(output, loss_sum=output.loss_sum.detach(), frontier={})

    def _check_finite(
        self,
        loaded: Sequence[LoadedBatch],
        *,
        outputs: Sequence[LossOutput],
        loss_sum: float,
        grad_norm: float,
    ) -> None:
        """Stop before a step that would spoil the weights; every rank sees the same sums."""
        if math.isfinite(loss_sum) and math.isfinite(grad_norm):
            return
        step, scale = self.state.step, self.engine.loss_scale
        if math.isfinite(loss_sum) and scale > 1:
            get_logger().info("step %d left out: gradients overflow at loss scale %g", step, scale)
            return
        keys = bad_samples([item.batch for item in loaded], outputs)
        where = f"'{loaded[0].batch.dataset}' with samples {', '.join(keys)}"
        raise not_finite(step, loss_sum=loss_sum, grad_norm=grad_norm, where=where)

    def _count_skips(self, loaded: Sequence[LoadedBatch]) -> None:
        """Write down samples that could not be used; stop if there are too many."""
        own = [skip for item in loaded for skip in item.skips]
        skips = [skip for share in dist.gather_objects(own) for skip in share]
        for skip in skips:
            get_logger().warning("skipped %s %s: %s", skip.dataset, skip.key, skip.reason)
        counts = SkipCounts(self.state.num_skipped).plus(skips)
        self.state = dataclasses.replace(self.state, num_skipped=dict(counts.by_dataset))
        self.folder.write_skips(skips, step=self.state.step)
        counts.check(
            num_used=self.state.step * self.state.global_batch_size,
            max_rate=self.run.max_skip_rate,
            last=skips,
            where=str(self.folder.path / SKIPPED_FILE),
        )

    def _end_epoch(self) -> None:
        """Validate and save, each at its cadence; the last epoch does both."""
        epoch, last = self.state.step // self.steps_per_epoch, self.run.max_epoch
        is_best = False
        if self.data.has_valid and is_due(self.run.valid_freq, at=epoch, last=last):
            is_best = self._validate()
        if is_best or is_due(self.run.save_freq, at=epoch, last=last):
            self._save()

    def _validate(self) -> bool:
        """Measure the model; return whether it never was better."""
        self.model.eval()
        model = CachingModel(cast(Model, self.model), data=self.data)
        with self.engine.autocast():
            metrics = self.task.evaluate(model, model.watch(self.data.valid_batches()))
        self.model.train()
        self.folder.write(self.state.step, kind="valid", values=metrics)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        get_logger().info("step %d: %s", self.state.step, shown)
        value, best = metrics[BEST_METRIC], self.state.best_metric
        if not math.isfinite(value) or (best is not None and value >= best):
            return False
        self.state = dataclasses.replace(self.state, best_metric=value, best_step=self.state.step)
        return True

    def _save(self) -> None:
        if self._saved_step == self.state.step:
            return
        self._saved_step = self.state.step
        self.data.flush()
        self.folder.save(
            self.model, engine=self.engine, state=self.state, keep_last=self.run.keep_last
        )

    def _on_device(self, values: Sequence[float]) -> Tensor:
        """Return numbers where the ranks can add them up; Apple's GPUs have no float64."""
        dtype = torch.float32 if self.engine.device.type == "mps" else torch.float64
        return torch.tensor(values, dtype=dtype, device=self.engine.device)


def count_targets(batch: Batch) -> int:
    """Count the supervised tokens of a batch; the first of a row has nothing to predict it."""
    return int((batch.labels[:, 1:] != IGNORE_INDEX).sum())


def is_due(every: int, *, at: int, last: int) -> bool:
    """Tell whether something done every so often, and at the very end, is to be done now."""
    return at % every == 0 or at == last
