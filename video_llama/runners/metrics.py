"""What a run says about itself: metrics.jsonl, TensorBoard if it is installed, a progress bar.

Only rank zero writes. A run that goes on from step N first drops what was written after N, so that
the file of an interrupted run reads like that of an uninterrupted one.
"""

from __future__ import annotations

import importlib
import json
import math
import resource
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from video_llama.common.dist import is_main
from video_llama.common.logger import get_logger
from video_llama.runners.step import StepRecord

METRICS_FILE = "metrics.jsonl"


KEPT = ("loss_sum", "num_targets", "grad_norm", "num_left_out")
"""Of a window, what does not depend on the clock."""


@dataclass
class Window:
    """Sums since the last log line.

    Attributes:
        loss_sum: summed over supervised tokens, by data set.
        num_targets: supervised tokens, by data set.
        num_tokens: decoder positions that are not padding.
        num_samples: samples.
        data_wait_s: seconds the loop waited for batches.
        grad_norm: of the last step that was made, before clipping.
        num_left_out: steps that did not change the weights.
        started_s: clock at the window's start.
    """

    loss_sum: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_targets: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    num_tokens: int = 0
    num_samples: int = 0
    data_wait_s: float = 0.0
    grad_norm: float = 0.0
    num_left_out: int = 0
    started_s: float = field(default_factory=time.perf_counter)

    def add(self, step: StepRecord) -> None:
        """Add an optimizer step; a loss that is not finite would hide those of the others."""
        if math.isfinite(step.loss_sum):
            self.loss_sum[step.dataset] += step.loss_sum
            self.num_targets[step.dataset] += step.num_targets
        self.num_tokens += step.num_tokens
        self.num_samples += step.num_samples
        self.data_wait_s += step.data_wait_s
        if step.is_left_out:
            self.num_left_out += 1
        else:
            self.grad_norm = step.grad_norm

    def sums(self) -> dict[str, Any]:
        """Return what a run that goes on needs for its next line; rates start anew."""
        values = ((name, getattr(self, name)) for name in KEPT)
        return {name: dict(v) if isinstance(v, Mapping) else v for name, v in values}

    @classmethod
    def restored(cls, sums: Mapping[str, Any]) -> Window:
        """Return a window that goes on from `sums`, whose clock starts now; {} for a new one."""
        window = cls()
        for name, value in sums.items():
            if isinstance(value, Mapping):
                getattr(window, name).update(value)
            else:
                setattr(window, name, value)
        return window

    def record(self) -> dict[str, float]:
        """Return the window as numbers to write; losses are in nats per supervised token."""
        seconds = max(time.perf_counter() - self.started_s, 1e-9)
        losses = {
            f"loss/{name}": self.loss_sum[name] / max(count, 1)
            for name, count in self.num_targets.items()
        }
        return {
            "loss": sum(self.loss_sum.values()) / max(sum(self.num_targets.values()), 1),
            **(losses if len(losses) > 1 else {}),
            "grad_norm": self.grad_norm,
            **({"steps_left_out": self.num_left_out} if self.num_left_out else {}),
            "tokens_per_s": self.num_tokens / seconds,
            "samples_per_s": self.num_samples / seconds,
            "data_wait_share": self.data_wait_s / seconds,
            **memory_gib(),
        }


def memory_gib() -> dict[str, float]:
    """Return the peak memory of this process, host and GPU, in GiB."""
    # Linux counts ru_maxrss in KiB.
    peaks = {"rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if torch.cuda.is_available():
        peaks["gpu_mem_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return peaks


class MetricsLog:
    """Appends lines to metrics.jsonl and mirrors them to TensorBoard.

    Args:
        folder: the run folder.
        step: optimizer step the run starts from; later lines are dropped.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        path = folder / METRICS_FILE
        drop_lines_after(path, step=step)
        self._file = path.open("a", encoding="utf-8")
        self._board = _open_board(folder / "tensorboard", step)

    def write(self, step: int, *, kind: str, values: Mapping[str, float]) -> None:
        """Write one line.

        Args:
            step: optimizer steps done.
            kind: train or valid.
            values: numbers by name, units in the name.
        """
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind, **rounded}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file; a last line cut off by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = []
    for index, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if index < len(lines) - 1:
                raise
    return records


def drop_lines_after(path: Path, *, step: int) -> None:
    """Rewrite a .jsonl file without the records of later steps."""
    if not path.exists():
        return
    kept = [record for record in read_lines(path) if record["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    partial.replace(path)


def _open_board(folder: Path, step: int) -> Any:  # noqa: ANN401 - an optional package's type
    """Open TensorBoard's writer, None where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=step + 1 if step else None)


class ProgressBar:
    """A bar with the time left on a terminal, a line per log record anywhere else.

    Args:
        num_steps: optimizer steps of the whole run.
        step: where it starts.
    """

    def __init__(self, *, num_steps: int, step: int) -> None:
        from rich import get_console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._num_steps = num_steps
        self._first = (step, time.perf_counter())
        self._is_live = is_main() and get_console().is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=get_console(),
            disable=not self._is_live,
        )
        self._task = self._bar.add_task("training", total=num_steps, completed=step)

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Move the bar to `step` steps done."""
        self._bar.update(self._task, completed=step)

    def show(self, step: int, *, values: Mapping[str, float]) -> None:
        """Show a log record."""
        text = (
            f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  "
            f"waits for data {values['data_wait_share']:.0%}"
        )
        self._bar.update(self._task, description=text)
        if not self._is_live:
            first_step, started_s = self._first
            per_step = (time.perf_counter() - started_s) / max(step - first_step, 1)
            left = timedelta(seconds=round(per_step * (self._num_steps - step)))
            get_logger().info("step %d/%d  %s  left %s", step, self._num_steps, text, left)
