"""The only training loop of the project.

An iteration is one forward pass per rank, an optimizer step is `accum_grad_iters` of them, and an
epoch is a number of iterations; that of one pass over the data is counted before, see `epochs`.

The loop knows not what a step is made of, see `step`; no readers, see `data`; no files, see
`folder`; and not how several processes make one step, see `engine`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from video_llama.common import dist
from video_llama.common.cadence import Cadence, parse_cadence
from video_llama.common.logger import get_logger
from video_llama.common.registry import registry
from video_llama.common.schema import Config
from video_llama.datasets.collate import LoadedBatch, Skip
from video_llama.runners.bad_steps import StepJudge, describe
from video_llama.runners.checkpoint import RunState
from video_llama.runners.data import CachingModel, RunData
from video_llama.runners.engine import Engine
from video_llama.runners.epochs import num_steps, steps_per_epoch
from video_llama.runners.flop_rate import FlopRate
from video_llama.runners.folder import SKIPPED_FILE, RunFolder
from video_llama.runners.goal import Goal
from video_llama.runners.ledger import Ledger
from video_llama.runners.metrics import Window, train_numbers
from video_llama.runners.optim import LearningRate, learning_scales
from video_llama.runners.progress import ProgressBar
from video_llama.runners.sanity import StartCheck
from video_llama.runners.signals import StopRequest
from video_llama.runners.skips import SkipCounts, counted_anew
from video_llama.runners.step import StepMaker, StepRecord
from video_llama.runners.watchdog import Heartbeat, Watchdog
from video_llama.tasks.base import Model, Task


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
        return self.state.step >= self.num_steps and not self.state.validation_pending


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
        flop_rate: counts operations for the MFU, None where the peak is unknown.
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
        flop_rate: FlopRate | None = None,
    ) -> None:
        self.config = config
        self.run = config.run
        self.model = model
        self.task = task
        self.data = data
        self.engine = engine
        self.folder = folder
        self.start_check = start_check
        run, plan, world = config.run, data.plan, engine.world
        self._saved_step: int | None = None
        self.heartbeat = Heartbeat()
        self.maker = StepMaker(
            config,
            task=task,
            data=data,
            engine=engine,
            heartbeat=self.heartbeat,
            flop_rate=flop_rate,
        )
        self.ledger = Ledger(folder.path, world=world, reader=run.video_reader, is_kept=run.ledger)
        self.judge = StepJudge(run, memory=folder.start.state.judge if folder.start.state else {})
        self.learning_rate = LearningRate(run, compat=config.model.compat)
        self.lr_scales = learning_scales(config)
        self.steps_per_epoch = steps_per_epoch(run)
        self.num_steps = num_steps(run)
        self.goal = Goal.of(config, task=task)
        fresh = RunState(
            step=0, steps_per_epoch=self.steps_per_epoch, global_batch_size=plan.global_batch_size
        )
        state = counted_anew(folder.start.state or fresh, record=folder.record)
        state = self.goal.carried_over(state, config=config)
        # A validation that was left is never made up for where nothing is validated any more.
        is_pending = state.validation_pending and data.has_valid
        lengths = {name: share.length for name, share in plan.shares.items()}
        self.state = dataclasses.replace(state, validation_pending=is_pending, lengths=lengths)
        self.window = Window.restored(self.state.window)

    def train(self) -> RunSummary:
        """Run the loop; on SIGTERM, SIGINT or SIGUSR1 save what is done and return.

        Raises:
            VideoLlamaError: a loss or gradient is not finite, too many samples cannot be used, or a
                checkpoint cannot be written.
        """
        self.folder.load(self.engine)
        self.model.train()
        bar = ProgressBar(num_steps=self.num_steps, step=self.state.step)
        watchdog = Watchdog(
            self.heartbeat, world=self.engine.world, limit_s=self.run.collective_timeout_s
        )
        with self.folder.opened(self.config), watchdog, StopRequest() as request, bar:
            self._go_on(request, bar=bar)
        return RunSummary(folder=self.folder.path, state=self.state, num_steps=self.num_steps)

    def _go_on(self, request: StopRequest, *, bar: ProgressBar) -> None:
        """Make steps to the end of the run, or until any rank is asked to stop."""
        if self.state.validation_pending:
            self._end_step(request)
        batches = self.data.train_batches(self.state.step)
        while self.state.step < self.num_steps and not self.state.validation_pending:
            self.folder.check_saving()
            record = self._step(batches, request=request)
            if record is None:
                break
            self.window.add(record)
            bar.advance(self.state.step)
            if self._is_due(Cadence(self.run.log_freq, "step")):
                values = train_numbers(
                    record,
                    window=self.window,
                    scales=self.lr_scales,
                    loss_scale=self.engine.loss_scale,
                    num_skipped=self.state.num_skipped,
                    peak=self.maker.peak_flops,
                )
                self.folder.write(self.state.step, kind="train", values=values)
                bar.show(self.state.step, values=values)
                self.window = Window()
            self._end_step(request)
        request.end_workers()
        if self.state.step:
            self._save()

    def _step(self, batches: Iterator[LoadedBatch], *, request: StopRequest) -> StepRecord | None:
        """Make one optimizer step; None if any rank was asked to stop before it was made."""
        step = self.state.step
        lr = self.learning_rate(step)
        measured = self.maker.measure(batches, step=step, lr=lr, request=request)
        if measured is None:
            return None
        self.ledger.add(measured)
        record = self._apply(measured)
        if self.start_check is not None:
            self.start_check(step, loss=record.loss, batch=record.loaded[0].batch)
        self.state = dataclasses.replace(self.state, step=step + 1)
        if record.num_skips:
            self._count_skips(record)
        return record

    def _apply(self, record: StepRecord) -> StepRecord:
        """Change the weights, or do with a bad step what the run file says.

        Raises:
            VideoLlamaError: the run stops at bad steps.
        """
        verdict = self.judge(record, loss_scale=self.engine.loss_scale)
        if verdict.reason:
            get_logger().warning("step %d left out: %s", record.step + 1, verdict.reason)
        if verdict.action == "make":
            self.engine.step(lr=record.lr)
            return dataclasses.replace(record, is_left_out=bool(verdict.reason))
        bad = describe(record, verdict)
        self.folder.write_bad_step(bad)
        if verdict.action == "stop":
            self.ledger.flush()
            raise bad.error(self.folder.path, weights=self.folder.as_start(self.config))
        self.engine.discard()
        return dataclasses.replace(record, is_left_out=True)

    def _count_skips(self, record: StepRecord) -> None:
        """Write down samples that could not be used; stop if there are too many."""
        own = [skip for item in record.loaded for skip in item.skips]
        skips = self._tell_skips(own)
        counts = SkipCounts(self.state.num_skipped).plus(skips)
        self.state = dataclasses.replace(self.state, num_skipped=dict(counts.by_dataset))
        num_steps = self.state.step - self.state.skips_since
        num_used = num_steps * self.state.global_batch_size
        self._check_skips(counts, num_used=num_used, last=skips)

    def _tell_skips(self, own: Sequence[Skip]) -> list[Skip]:
        """Name and write down this rank's skips and the others'."""
        skips = [skip for share in dist.gather_objects(own) for skip in share]
        for skip in skips:
            file = skip.path or skip.key
            get_logger().warning("skipped %s %s: %s", skip.dataset, file, skip.reason)
        self.folder.write_skips(skips, step=self.state.step)
        return skips

    def _check_skips(self, counts: SkipCounts, *, num_used: int, last: Sequence[Skip]) -> None:
        """Stop if too many samples could not be used."""
        counts.check(
            num_used=num_used,
            max_rate=self.run.max_skip_rate,
            last=last,
            where=str(self.folder.path / SKIPPED_FILE),
        )

    def _end_step(self, request: StopRequest) -> None:
        """Validate and save, each at its cadence; the last step does both.

        A validation that was left is made up for by the run that goes on.
        """
        is_best = False
        must_validate = self.state.validation_pending or self._is_due(
            parse_cadence(self.goal.every)
        )
        if self.data.has_valid and must_validate:
            is_best = self._validate(request)
        if is_best or self._is_due(parse_cadence(self.run.save_freq)):
            self._save()

    def _is_due(self, every: Cadence) -> bool:
        return every.is_due(
            self.state.step, steps_per_epoch=self.steps_per_epoch, num_steps=self.num_steps
        )

    def _validate(self, request: StopRequest) -> bool:
        """Measure the model; return whether it never was better."""
        self.model.eval()
        with self.engine.autocast(), self.engine.evaluating(cast(Model, self.model)) as asked:
            model = CachingModel(asked.model, data=self.data)
            own = self.heartbeat.along(self.data.valid_batches(), step=self.state.step)
            batches = request.until_asked(own, meet=asked.meet)
            metrics = self.task.evaluate(model, model.watch(batches))
        self.model.train()
        was_left = request.on_any_rank
        self.state = dataclasses.replace(self.state, validation_pending=was_left)
        if was_left:
            return False
        num_used = sum(dist.gather_objects(model.num_used))
        skips = self._tell_skips(model.skips)
        self._check_skips(SkipCounts({}).plus(skips), num_used=num_used, last=skips)
        self.folder.write(self.state.step, kind="valid", values=metrics)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        get_logger().info("step %d: %s", self.state.step, shown)
        value = metrics[self.goal.metric]
        if not self.goal.is_better(value, than=self.state.best_metric):
            return False
        self.state = dataclasses.replace(self.state, best_metric=value, best_step=self.state.step)
        return True

    def _save(self) -> None:
        if self._saved_step == self.state.step:
            return
        self._saved_step = self.state.step
        self.state = dataclasses.replace(
            self.state, judge=self.judge.memory, window=self.window.sums()
        )
        self.heartbeat.beat("saving", step=self.state.step)
        self.ledger.flush()
        self.folder.save(engine=self.engine, state=self.state, keep_last=self.run.keep_last)
        # Last: features that cannot be kept cost no checkpoint.
        self.data.flush()
