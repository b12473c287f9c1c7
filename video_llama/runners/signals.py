"""Stopping politely: a run that is asked to stop saves what is done and leaves.

SIGTERM is what torchrun, SLURM and Kubernetes send before they kill, SIGINT is Ctrl-C, and SIGUSR1
what SLURM sends ahead of the time limit (`--signal=USR1@120`). Launchers send them to every process
they know of, so that one request may arrive twice, and at data workers too.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import TypeVar

from video_llama.common import dist
from video_llama.common.logger import get_logger

T = TypeVar("T")

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
REPEAT_S = 2.0
"""Signals within this time of the first are the same request: torchrun hands on to its ranks what
SLURM or a terminal has sent to them already."""
END_S = 2.0
"""How long killed processes may take to end; those that wait for a broken disk never do."""


class _StopAsked(BaseException):
    """Ends a wait; no error, so that nothing that handles errors takes it for one."""


class StopRequest:
    """Remembers a request to stop for the length of a `with` block.

    A second request acts as if this class were not there, for who cannot wait. Data workers that
    were started in the block end with it.

    Attributes:
        received: the first signal, None so far.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._received_s = 0.0
        self._is_waiting = False
        self._before: dict[signal.Signals, object] = {}
        self._older_children: list[multiprocessing.process.BaseProcess] = []

    def __enter__(self) -> StopRequest:
        self._older_children = multiprocessing.active_children()
        for number in ASKING:
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        self.end_workers()

    @property
    def on_any_rank(self) -> bool:
        """Whether any rank was asked; every rank must ask this at the same time."""
        return dist.any_rank(self.received is not None)

    def sum_unless_asked(self, count: int) -> int | None:
        """Add a number up over all ranks, at the cost of `on_any_rank` alone.

        Args:
            count: of this rank; every rank must call this at the same time.

        Returns:
            None on all ranks if any was asked to stop.
        """
        total, num_asked = dist.sum_counts([count, int(self.received is not None)])
        return None if num_asked else total

    def wait_for(self, wait: Callable[[], T]) -> T | None:
        """Return what a function returns, None as soon as this process is asked to stop.

        Args:
            wait: may wait for long and must not mind being left.
        """
        try:
            self._is_waiting = True
            try:
                return None if self.received else wait()
            finally:
                self._is_waiting = False
        except _StopAsked:
            return None
        except RuntimeError:
            # Python swallows what is raised while a finalizer runs. The data workers have been
            # ended then all the same, and torch complains of that.
            if self.received is None:
                raise
            return None

    def until_asked(
        self, items: Iterable[T], *, meet: Callable[[], None] = lambda: None
    ) -> Iterator[T]:
        """Hand items on until any rank is asked to stop.

        The ranks go through their items side by side; those that have fewer wait for the others.

        Args:
            items: of this rank, none of them None.
            meet: called when this rank has dealt with its item, or has none.
        """
        iterator = iter(items)
        while True:
            item = self.wait_for(lambda: next(iterator, None))
            if self.on_any_rank:
                self.end_workers()
                return
            if not dist.any_rank(item is not None):
                return
            if item is not None:
                yield item
            meet()

    def end_workers(self) -> None:
        """Kill this run's data workers; torch would wait seconds for each that reads."""
        workers = set(multiprocessing.active_children()) - set(self._older_children)
        if not workers:
            return
        # Torch watches over its workers and would take their end for an error.
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for worker in workers:
            worker.kill()
        deadline_s = time.monotonic() + END_S
        for worker in workers:
            worker.join(max(deadline_s - time.monotonic(), 0))
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_s = signal.Signals(number), time.monotonic()
            get_logger().warning("%s: stopping as soon as the run is saved", self.received.name)
            if self._is_waiting:
                # Before torch gets to wait for them.
                self.end_workers()
                raise _StopAsked
        elif time.monotonic() - self._received_s > REPEAT_S:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]


def leave_signals_to_parent(worker_index: int) -> None:
    """Set up a data worker: whether to stop is the parent's affair, which ends its workers itself.

    A worker that ended on its own would be an error in the middle of the parent's step.

    Args:
        worker_index: as torch's `worker_init_fn` is called; not used.
    """
    del worker_index
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
