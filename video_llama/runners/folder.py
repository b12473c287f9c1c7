"""The folder a run leaves behind; only rank zero writes into it.

config.yaml     the resolved run file
deepspeed.json  what DeepSpeed was told of it, if it is the engine
log.txt         what the console showed
metrics.jsonl   a line per log record and validation, see `metrics`
skipped.jsonl   a line per sample that could not be used
bad_steps.jsonl a line per step that was not made, see `bad_steps`
ledger/         what every sample was made of, see `ledger`
tensorboard/    if TensorBoard is installed
tracker.json    which run this is in W&B or trackio, if one of them is used
checkpoints/    see `checkpoint`
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from video_llama.common.dist import gather_objects, is_main, read_world
from video_llama.common.errors import CheckpointMismatch
from video_llama.common.logger import get_logger, log_to_folder, stop_logging_to
from video_llama.common.schema import Config
from video_llama.datasets.collate import Skip
from video_llama.datasets.fills import Record, read_record, write_record
from video_llama.runners.async_save import Background, HostCopy
from video_llama.runners.bad_steps import BAD_STEPS_FILE, BadStep
from video_llama.runners.checkpoint import (
    RunState,
    load_optimizer_file,
    load_weights_file,
)
from video_llama.runners.deepspeed_config import deepspeed_config, show
from video_llama.runners.engine import Engine
from video_llama.runners.ledger import drop_entries_after
from video_llama.runners.metrics import MetricsLog, drop_lines_after
from video_llama.runners.provenance import written_by
from video_llama.runners.resume import Start, tell_changes
from video_llama.runners.retention import save_checkpoint, set_aside_newer, update_links
from video_llama.runners.trackers import open_tracker
from video_llama.runners.write_errors import explained

CONFIG_FILE = "config.yaml"
DEEPSPEED_FILE = "deepspeed.json"
SKIPPED_FILE = "skipped.jsonl"


class RunFolder:
    """Keeps a run: its settings, its numbers and its checkpoints.

    Args:
        path: the folder; made when the run is opened.
        start: where the run begins, see `resume.plan_start`.
    """

    def __init__(self, path: Path, *, start: Start) -> None:
        self.path = path
        self.start = start
        self._metrics: MetricsLog | None = None
        self._recorded: set[tuple[str, int, int]] = set()
        self._weights_copy, self._optimizer_copy = HostCopy(), HostCopy()
        self._writer = Background()
        self._saves_beside = True
        self._written_by: dict[str, Any] = {}

    @property
    def record(self) -> Record:
        """How places were filled in the run that the checkpoint to start from is of."""
        checkpoint = self.start.checkpoint
        return {} if checkpoint is None else read_record(checkpoint.parents[1] / SKIPPED_FILE)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    @property
    def _is_own_start(self) -> bool:
        """Whether the checkpoint to start from is one of this folder."""
        checkpoint = self.start.checkpoint
        return checkpoint is not None and checkpoint.parent == self.checkpoints.resolve()

    def as_start(self, config: Config) -> str | None:
        """Return the options by which another run starts from this one's weights, if any are here.

        Args:
            config: of this run.
        """
        if not (self.checkpoints / "last").is_dir():
            return None
        # `ckpt_2` is loaded last: in its place these weights are not overwritten.
        key = "ckpt" if config.model.ckpt_2 is None else "ckpt_2"
        return f"model.{key}={self.path}"

    def load(self, engine: Engine) -> None:
        """Put weights and moments of the checkpoint to start from in place; every rank must call.

        Raises:
            CheckpointMismatch: they belong to another model, or the ranks found different ones.
        """
        found = gather_objects(None if self.start.state is None else self.start.state.step)
        if len(set(found)) > 1:
            raise CheckpointMismatch(
                f"{self.checkpoints}: the ranks would start from different steps: {found}; "
                "run.output_dir must be the same directory on every machine"
            )
        if self.start.checkpoint is not None:
            shapes = engine.trainable_shapes()
            engine.load_trainable(load_weights_file(self.start.checkpoint, shapes=shapes))
            engine.load_optimizer_state(load_optimizer_file(self.start.checkpoint))

    @contextlib.contextmanager
    def opened(self, config: Config) -> Iterator[None]:
        """Write into the folder for the length of a `with` block; other ranks only pass.

        Args:
            config: the run file; kept resolved.
        """
        if not is_main():
            yield
            return
        with contextlib.ExitStack() as stack:
            with explained(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                stack.callback(stop_logging_to, log_to_folder(self.path))
                self._prepare(config)
            stack.callback(self._close_metrics)
            try:
                yield
                self._writer.wait()
            except Exception:
                self._writer.finish()
                raise

    def _prepare(self, config: Config) -> None:
        """Say what the run is, undo what comes after its start, and open its numbers."""
        self._saves_beside = config.run.async_save
        self._written_by = written_by()
        text = yaml.safe_dump(dict(config.resolved), sort_keys=False, allow_unicode=True)
        (self.path / CONFIG_FILE).write_text(text, encoding="utf-8")
        if config.run.engine == "deepspeed":
            told = deepspeed_config(config.run, world_size=read_world().size)
            (self.path / DEEPSPEED_FILE).write_text(show(told), encoding="utf-8")
        self._go_back_to_start(config)
        self._metrics = MetricsLog(
            self.path,
            step=0 if self.start.state is None else self.start.state.step,
            tracker=open_tracker(config, folder=self.path),
        )

    def _close_metrics(self) -> None:
        metrics, self._metrics = self._metrics, None
        if metrics is not None:
            metrics.close()

    def write(self, step: int, *, kind: str, values: Mapping[str, float | None]) -> None:
        """Add a line to the numbers, see `MetricsLog.write`."""
        if self._metrics is not None:
            self._metrics.write(step, kind=kind, values=values)

    def write_skips(self, skips: Sequence[Skip], *, step: int) -> None:
        """Add a line for each sample that could not be used and has none yet.

        Args:
            skips: of one step or validation, over all ranks.
            step: optimizer steps done.
        """
        new = [skip for skip in skips if skip.identity not in self._recorded]
        self._recorded.update(skip.identity for skip in new)
        if is_main() and new:
            path = self.path / SKIPPED_FILE
            with explained(path):
                write_record(path, new, step=step)

    def write_bad_step(self, bad: BadStep) -> None:
        """Add a line for a step that was not made."""
        if is_main():
            path = self.path / BAD_STEPS_FILE
            with explained(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(bad)) + "\n")

    def save(self, *, engine: Engine, state: RunState, keep_last: int) -> None:
        """Write a checkpoint and delete those that are not kept; every rank must call it.

        With `run.async_save` the state is copied, and written while the training goes on.

        Raises:
            VideoLlamaError: it cannot be written, or the one before could not.
        """
        # Before anything is gathered: there is room for one copy.
        self._writer.wait()
        weights, optimizer = engine.trainable_state(), engine.optimizer_state()
        if not is_main():
            return
        if self._saves_beside and not engine.gives_copies:
            weights = self._weights_copy.take(weights)
            optimizer = self._optimizer_copy.take(optimizer)
        # The training goes on changing what it remembers.
        state = copy.deepcopy(state)
        state = dataclasses.replace(state, num_ranks=engine.world.size, written_by=self._written_by)

        def write() -> None:
            with explained(self.checkpoints):
                path = save_checkpoint(
                    self.checkpoints,
                    weights=weights,
                    optimizer=optimizer,
                    state=state,
                    keep_last=keep_last,
                )
            get_logger().info("saved %s", path)

        if self._saves_beside:
            self._writer.start(write)
        else:
            write()

    def check_saving(self) -> None:
        """Return at once.

        Raises:
            VideoLlamaError: the last checkpoint could not be written; older ones are untouched.
        """
        self._writer.check()

    def _go_back_to_start(self, config: Config) -> None:
        """Undo what was written after the step the run starts from."""
        state = self.start.state
        step = 0 if state is None else state.step
        drop_lines_after(self.path / BAD_STEPS_FILE, step=step)
        drop_entries_after(self.path, step=step)
        # What lies here beside a start from elsewhere is no past of this run, damaged or whole.
        for moved in set_aside_newer(self.checkpoints, step=step if self._is_own_start else -1):
            get_logger().warning("a checkpoint that this run does not go on from is now %s", moved)
        if state is None or self.start.checkpoint is None:
            (self.path / SKIPPED_FILE).unlink(missing_ok=True)
            return
        self._take_over_record(self.start.checkpoint.parents[1] / SKIPPED_FILE)
        tell_changes(state, resolved=config.resolved, written_by=self._written_by)
        if not self._is_own_start:
            get_logger().info("starting from %s at step %d", self.start.checkpoint, state.step)
            return
        update_links(self.checkpoints, state)
        get_logger().info("going on at step %d from %s", state.step, self.start.checkpoint)

    def _take_over_record(self, theirs: Path) -> None:
        """Keep what is known of filled places, also of steps that are to be made again.

        Args:
            theirs: the record of the run that the checkpoint is of, mostly this one.
        """
        own = self.path / SKIPPED_FILE
        if theirs.resolve() != own.resolve():
            own.unlink(missing_ok=True)
            if theirs.exists():
                shutil.copyfile(theirs, own)
        known = read_record(own).values()
        self._recorded = {skip.identity for skips in known for skip in skips}
