"""How far a run is: a bar on a terminal, a line per log record anywhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

from video_llama.common.dist import is_main
from video_llama.common.logger import get_logger

WINDOW = 50
"""Steps that the time left is judged by; the first ones of a run are slow."""

ROOM_FOR_BAR = 36
"""Columns of a terminal that the bar, the counts' separators and the time left take, at most."""


class ProgressBar:
    """Shows how far a run is and how long it will still take.

    Args:
        num_steps: optimizer steps of the whole run.
        step: where it starts.
    """

    def __init__(self, *, num_steps: int, step: int) -> None:
        from rich import get_console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._num_steps = num_steps
        self._times: deque[tuple[int, float]] = deque([(step, time.perf_counter())], WINDOW + 1)
        self._is_live = is_main() and get_console().is_terminal
        self._bar = Progress(
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("[cyan]{task.fields[left]} left[/]"),
            TextColumn("{task.description}"),
            console=get_console(),
            disable=not self._is_live,
        )
        self._task = self._bar.add_task("", total=num_steps, completed=step, left="?")

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
        self._times.append((step, time.perf_counter()))
        self._bar.update(self._task, completed=step, left=self._left())

    def show(self, step: int, *, values: Mapping[str, float | None]) -> None:
        """Show a log record."""
        if self._is_live:
            room = self._bar.console.width - ROOM_FOR_BAR - 2 * len(str(self._num_steps))
            self._bar.update(self._task, description=summary(values, width=room))
            return
        line = summary(values), self._left()
        get_logger().info("step %d/%d  %s  %s left", step, self._num_steps, *line)

    def _left(self) -> str:
        """Say how long the run will take at the pace of the last steps."""
        (first, started_s), (last, now_s) = self._times[0], self._times[-1]
        if last == first:
            return "?"
        per_step_s = (now_s - started_s) / (last - first)
        return str(timedelta(seconds=round(per_step_s * (self._num_steps - last))))


def summary(values: Mapping[str, float | None], *, width: int | None = None) -> str:
    """Return the numbers of a log record that a person watches, in one line.

    Worked example, whole and in 30 columns:
        loss 2.3120  lr 1.0e-04  data 2%  MFU 34%  norm 0.84  412 tok/s  61.2 GiB
        loss 2.3120  lr 1.0e-04

    Args:
        values: of the record.
        width: characters there are, None for any number.
    """
    shown = (
        ("loss", "loss {:.4f}"),
        ("lr", "lr {:.1e}"),
        ("data_wait_share", "data {:.0%}"),
        ("mfu", "MFU {:.0%}"),
        ("grad_norm", "norm {:.2f}"),
        ("tokens_per_s", "{:.0f} tok/s"),
        ("gpu_mem_gib", "{:.1f} GiB"),
        ("steps_left_out", "{:.0f} left out"),
    )
    text = ""
    for name, form in shown:
        value = values.get(name)
        longer = text if value is None else f"{text}  {form.format(value)}".strip()
        if width is not None and len(longer) > width:
            break
        text = longer
    return text
