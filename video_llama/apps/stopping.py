"""Processes that were started are stopped with the one that started them, and may save before."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Protocol


class VerbProcess(Protocol):
    """A running verb; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int:
        """Of the process, which leads a group."""

    def poll(self) -> int | None:
        """Return the exit code, None while it runs; minus the number of a signal."""

    def wait(self) -> int:
        """Return the exit code once there is one."""

    def terminate(self) -> None:
        """Ask it to save and end."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C, so that what was started is stopped and files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def unbroken() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off, so that nothing is started and then not known of.

    Asked several times meanwhile counts once; what is started may be importing its libraries.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def stop(processes: Sequence[VerbProcess]) -> None:
    """Ask processes to save and end, and wait for them; asked a second time, kill them."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        running = [process.pid for process in processes if process.poll() is None]
        everyone = _with_descendants(running)
        kills: list[tuple[Callable[[int, int], None], list[int]]] = [
            (os.killpg, running),  # a verb leads a group
            (os.kill, everyone),
        ]
        for kill, pids in kills:
            for pid in pids:
                with suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
        for process in processes:
            process.wait()
        raise


def _with_descendants(pids: list[int]) -> list[int]:
    """Return processes and all below them; torchrun gives every rank a session of its own.

    Where the kernel does not list children (it is Linux that does), the processes alone.
    """
    found = list(pids)
    for pid in found:  # grows while it is walked
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                found.extend(map(int, file.read_text().split()))
    return found
