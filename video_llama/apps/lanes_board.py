"""Bars of jobs that run side by side; several jobs may share one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

MAX_BARS = 12
"""So many bars are shown from beginning to end; of more, those of jobs that run or failed."""

MAX_FAILED = 4
"""Bars with failed jobs that stay where not all are shown; why all of them failed stands above."""


class Board:
    """Shows how far jobs are, for the length of a `with` block.

    More than a terminal can hold are shown while something runs on them, below one bar of all.

    Args:
        names: of the bar of every job, by position.
        console: where bars are shown, by default this process's.
    """

    def __init__(self, names: Sequence[str], *, console: Console | None = None) -> None:
        self._names = names
        self._done = [0.0] * len(names)
        self._failed: dict[str, None] = {}
        self._progress = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}"),
            console=console,
        )
        counts = Counter(names)
        self._is_long = len(counts) > MAX_BARS
        self._total = self._progress.add_task(
            "all", total=max(len(names), 1), visible=self._is_long, now=""
        )
        self._bars: dict[str, TaskID] = {
            name: self._progress.add_task(
                name, total=count, start=False, visible=not self._is_long, now=""
            )
            for name, count in counts.items()
        }

    def __enter__(self) -> Board:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, position: int, *, name: str, done: int, size: int) -> None:
        """Show how far a running job is.

        Args:
            position: of the job.
            name: of the job.
            done: steps or files.
            size: all there are, as far as it is known.
        """
        self._done[position] = min(done / max(size, 1), 1.0)
        title = "" if name == self._names[position] else f"{name} "
        self._draw(position, now=f"{title}{min(done, size):,}/{size:,}")

    def finish(self, position: int) -> None:
        """Show that a job is done."""
        self._done[position] = 1.0
        self._draw(position, now="")
        self._hide(self._names[position])

    def fail(self, position: int, text: str) -> None:
        """Show that a job failed, and why."""
        self._progress.console.print(text, style="red", markup=False, highlight=False)
        self._failed[self._names[position]] = None
        self._draw(position, now="failed")
        self._hide(self._names[position])

    def _draw(self, position: int, *, now: str) -> None:
        """Bring a bar up to date, and that of all."""
        name = self._names[position]
        bar = self._bars[name]
        self._progress.start_task(bar)
        done = sum(d for d, other in zip(self._done, self._names, strict=True) if other == name)
        self._progress.update(bar, completed=done, now=now, visible=True)
        failed = f"{len(self._failed)} failed" if self._failed else ""
        self._progress.update(self._total, completed=sum(self._done), now=failed)

    def _hide(self, name: str) -> None:
        """Put a bar away where there are too many to show all, unless it tells of a failure."""
        if self._is_long and name not in [*self._failed][:MAX_FAILED]:
            self._progress.update(self._bars[name], visible=False)
