"""Bars of jobs that run side by side; several jobs may share one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)


class Board:
    """Shows how far jobs are, for the length of a `with` block.

    Args:
        names: of the bar of every job, by position.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._done = [0.0] * len(names)
        self._progress = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}"),
        )
        self._bars: dict[str, TaskID] = {
            name: self._progress.add_task(name, total=count, start=False, now="")
            for name, count in Counter(names).items()
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

    def fail(self, position: int, text: str) -> None:
        """Show that a job failed, and why."""
        self._progress.console.print(text, style="red", markup=False, highlight=False)
        self._draw(position, now="failed")

    def _draw(self, position: int, *, now: str) -> None:
        """Bring a bar up to date."""
        name = self._names[position]
        bar = self._bars[name]
        self._progress.start_task(bar)
        done = sum(d for d, other in zip(self._done, self._names, strict=True) if other == name)
        self._progress.update(bar, completed=done, now=now)
