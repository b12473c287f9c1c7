"""One step of a run again, in one process: its batches, its dropout, its losses.

What happens in a step is a function of the weights, the seed and the step's number, so a step can
be made again from a checkpoint before it. The shares of all ranks are worked off one after another,
in the order of the run and with the dropout of the rank that had them. A forward pass on equal
weights gives equal losses; gradients are added up in another order than on several ranks, so that
weights that were trained forward from an earlier checkpoint agree to rounding.

Nothing is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.logger import get_logger
from video_llama.common.schema import Config, RunConfig
from video_llama.datasets.collate import LoadedBatch
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.bad_steps import BAD_STEPS_FILE
from video_llama.runners.checkpoint import RunState, find_damage, read_state
from video_llama.runners.data import RunData
from video_llama.runners.engine import Engine
from video_llama.runners.epochs import steps_per_epoch
from video_llama.runners.ledger import Entry
from video_llama.runners.metrics import read_lines
from video_llama.runners.optim import LearningRate
from video_llama.runners.resume import Start
from video_llama.runners.retention import STEP_PATTERN
from video_llama.runners.signals import StopRequest
from video_llama.runners.step import StepMaker, StepRecord
from video_llama.runners.watchdog import Heartbeat
from video_llama.tasks.base import Task


@dataclass(frozen=True)
class Layout:
    """How a step was divided.

    Attributes:
        num_ranks: processes.
        accum: iterations.
        batch_size: samples per rank and iteration.
    """

    num_ranks: int
    accum: int
    batch_size: int


def find_start(folder: Path, *, step: int) -> Start:
    """Return the newest whole checkpoint from which a step can be reached.

    Args:
        folder: of the run.
        step: number of the step, the first is 1; the checkpoint is of a step before it.

    Returns:
        A fresh start if there is none.
    """
    found = {
        int(match[1]): path
        for path in (folder / "checkpoints").glob("step_*")
        if (match := STEP_PATTERN.match(path.name)) and find_damage(path) is None
    }
    before = [number for number in found if number < step]
    if not before:
        return Start()
    newest = found[max(before)]
    return Start(newest, read_state(newest))


def layout_of(config: Config, *, entry: Entry | None, state: RunState | None) -> Layout:
    """Say how a step was divided, by the ledger, else as in the run that wrote the checkpoint.

    Args:
        config: the run file.
        entry: of the step, None if the run kept none.
        state: of a checkpoint, None if there is none.
    """
    run = config.run
    if entry is not None:
        batch_size = len(entry.samples) // (entry.num_ranks * entry.accum)
        return Layout(entry.num_ranks, entry.accum, batch_size)
    if state is None:
        return Layout(1, run.accum_grad_iters, run.batch_size_train)
    # The run may go on with other numbers of which the product is the same.
    accum = state.config["run"].get("accum_grad_iters", RunConfig.accum_grad_iters)
    return Layout(state.num_ranks, accum, state.global_batch_size // (state.num_ranks * accum))


def as_one_process(config: Config, *, layout: Layout, device: str) -> Config:
    """Return the run file under which one process makes the steps of several.

    Args:
        config: the run file.
        layout: how the step was divided.
        device: of this process.
    """
    run = config.run
    accum = layout.accum * layout.num_ranks
    cache = run.feature_cache
    return dataclasses.replace(
        config,
        run=dataclasses.replace(
            run,
            batch_size_train=layout.batch_size,
            accum_grad_iters=accum,
            iters_per_epoch=steps_per_epoch(run) * accum,
            device=device,
            num_workers=0,
            engine="auto",
            zero=None,
            compile=False,
            feature_cache=cache if cache is not None and Path(cache).is_dir() else None,
        ),
    )


@dataclass(frozen=True)
class Replay:
    """A run's parts, put together for one process.

    Attributes:
        config: as `as_one_process` gives it.
        model: in whatever mode.
        task: what is minimised.
        data: the run's.
        engine: holds the weights and moments of the start.
        learning_rate: of the run as it was.
        layout: how a step was divided.
    """

    config: Config
    model: VideoLLM
    task: Task
    data: RunData
    engine: Engine
    learning_rate: LearningRate
    layout: Layout

    def make(self, step: int, *, start: int, left_out: Collection[int] = ()) -> StepRecord:
        """Make a step, after those between the start and it; its own gradients change nothing.

        Args:
            step: its number, the first is 1.
            start: steps done at the start, fewer than `step`; `step - 1` trains nothing.
            left_out: numbers of steps that the run did not make.

        Returns:
            What it came to.
        """
        maker = self._maker()
        batches = self.data.train_batches(start)
        for done in range(start, step - 1):
            record = self._measure(maker, batches, done=done)
            if done + 1 in left_out:
                self.engine.discard()
            else:
                self.engine.step(lr=record.lr)
            get_logger().info("trained forward: step %d, loss %.4f", done + 1, record.loss)
        return self._measure(maker, batches, done=step - 1)

    def make_alone(self, step: int) -> StepRecord:
        """Make a step with the weights as they are, whichever they are.

        Args:
            step: its number, the first is 1.
        """
        return self.make(step, start=step - 1)

    def _maker(self) -> StepMaker:
        self.model.train()
        # What is computed here is not to be kept in the run's cache.
        self.data.cache = None
        return StepMaker(
            self.config,
            task=self.task,
            data=self.data,
            engine=self.engine,
            heartbeat=Heartbeat(),
            stands_for=self.layout.num_ranks,
        )

    def _measure(
        self, maker: StepMaker, batches: Iterator[LoadedBatch], *, done: int
    ) -> StepRecord:
        record = maker.measure(
            batches, step=done, lr=self.learning_rate(done), request=StopRequest()
        )
        assert record is not None, "nobody asked to stop"
        return record


def left_out_steps(folder: Path) -> set[int]:
    """Return the steps that a run's policy left out."""
    return {line["step"] for line in read_lines(folder / BAD_STEPS_FILE)}
