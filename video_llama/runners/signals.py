"""Stopping politely: a run that is asked to stop finishes its step, saves and leaves."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from video_llama.common.logger import get_logger

ASKING = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Remembers SIGTERM and SIGINT for the length of a `with` block.

    The second signal acts as if this class were not there, for who cannot wait.

    Attributes:
        received: the first signal, None so far.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
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

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        get_logger().warning("%s: finishing this step, then saving", self.received.name)

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]


def leave_signals_to_parent(worker_index: int) -> None:
    """Set up a data worker: Ctrl-C in the terminal is the parent's affair, SIGTERM ends it.

    Args:
        worker_index: as torch's `worker_init_fn` is called; not used.
    """
    del worker_index
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
