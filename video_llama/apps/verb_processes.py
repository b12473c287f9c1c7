"""Verbs in processes of their own, one or several ranks each.

A fresh interpreter needs seconds to import torch and transformers, more than many a verb then
works. `Verbs` imports them once, in a nursery, and forks a process for every verb. What computes
on a GPU is started afresh, as by hand: a driver that anything has asked for a device while it was
imported does not survive a fork. So is everything where the system is not Linux.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from types import FrameType, TracebackType

from video_llama.apps.devices import available_devices
from video_llama.apps.main import main
from video_llama.apps.stopping import VerbProcess, stop, stoppable, unbroken
from video_llama.common.errors import VideoLlamaError
from video_llama.common.logger import get_logger
from video_llama.processors.nursery import Child, Nursery

PRELOADED = "video_llama.apps.preloaded"
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that a nursery ignores and a verb does not."""


@dataclass(frozen=True)
class Call:
    """A verb to be run.

    Attributes:
        words: of its command line.
        num_ranks: processes that make one run.
        log: file that all it says is added to; None for this console.
        environment: added to that of this process when its `Verbs` were made.
    """

    words: Sequence[str]
    num_ranks: int = 1
    log: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Be asked to stop like any process; in a child of a nursery, before it is known of."""
        os.setsid()
        _take_signals()

    def __call__(self, connection: socket) -> int:
        """Run the verb in a child of a nursery; return its exit code."""
        os.environ.update(self.environment)
        if self.log is not None:
            with self.log.open("ab") as log:
                for stream in (sys.stdout, sys.stderr):
                    os.dup2(log.fileno(), stream.fileno())
        sys.argv = ["video-llama", *self.words]
        try:
            return main(self.words) if self.num_ranks == 1 else self._run_ranks()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        finally:
            # As at the end of an interpreter, which a nursery's child never comes to.
            for thread in threading.enumerate():
                if thread is not threading.main_thread() and not thread.daemon:
                    thread.join()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()

    def _run_ranks(self) -> int:
        """Run the ranks of one machine; the first that fails ends the others."""
        from torch.distributed.elastic.utils.distributed import get_free_port
        from torch.multiprocessing.spawn import (
            ProcessExitedException,
            ProcessRaisedException,
            start_processes,
        )

        ranks = start_processes(
            _be_rank,
            args=(self, get_free_port()),
            nprocs=self.num_ranks,
            join=False,
            start_method="fork",
        )

        def hand_on(number: int, frame: FrameType | None) -> None:
            for process in ranks.processes:
                process.terminate()

        signal.signal(signal.SIGTERM, hand_on)
        try:
            while not ranks.join():
                pass
        except (ProcessExitedException, ProcessRaisedException) as error:
            print(error, file=sys.stderr)
            return 1
        return 0


def _be_rank(rank: int, call: Call, port: int) -> None:
    """Be one of several ranks; what torchrun tells a process stands in its environment.

    Args:
        rank: this one.
        call: what all do.
        port: that rank zero listens at.
    """
    _take_signals()
    size = str(call.num_ranks)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    code = main(call.words)
    sys.stdout.flush()
    if code:
        sys.exit(code)


def _take_signals() -> None:
    """Let signals do what they do to a process nobody has told otherwise."""
    for number in ASKING:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Verbs:
    """Starts verbs; used as a context, whatever it forked ends with it.

    Args:
        warm: fork them from a process that has imported everything; else they are started afresh.
            None forks on Linux without a GPU.
        kept_open: files that live as long as any of them, e.g. a lock.
    """

    def __init__(self, *, warm: bool | None = None, kept_open: tuple[int, ...] = ()) -> None:
        if warm is None:
            warm = sys.platform.startswith("linux") and set(available_devices()) <= {"cpu"}
        self._kept_open = kept_open
        self._nursery = Nursery(PRELOADED, kept_open=kept_open) if warm else None
        self._forks = warm

    def __enter__(self) -> Verbs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._nursery is not None:
            # It may not listen yet, importing; it has nothing to save.
            self._nursery.kill()

    def start(self, call: Call) -> VerbProcess:
        """Start a verb in a session of its own.

        Ctrl-C then reaches this process alone, which asks every verb once.
        """
        if self._nursery is not None and self._forks:
            try:
                return _Forked(self._nursery.start(call))
            except OSError as error:
                # The nursery stays: it may still have children.
                get_logger().warning("verbs are started afresh from here on: %s", error)
                self._forks = False
        return self._start_afresh(call)

    def call(self, words: Sequence[str], *, num_ranks: int = 1) -> None:
        """Run a verb on this console.

        Raises:
            VideoLlamaError: it failed.
        """
        started: list[VerbProcess] = []
        with stoppable():
            try:
                with unbroken():
                    started.append(self.start(Call(words, num_ranks=num_ranks)))
                code = started[0].wait()
            finally:
                stop(started)
        if code:
            raise VideoLlamaError(f"video-llama {' '.join(words)}: exit code {code}")

    def _start_afresh(self, call: Call) -> VerbProcess:
        """Start a verb in a fresh interpreter that keeps to one core."""
        environment = {**os.environ, **call.environment, "OMP_NUM_THREADS": "1"}
        command = command_line(call.words, num_ranks=call.num_ranks)
        with (call.log or Path(os.devnull)).open("ab") as log:
            return subprocess.Popen(
                command,
                stdout=None if call.log is None else log,
                stderr=None if call.log is None else subprocess.STDOUT,
                env=environment,
                pass_fds=self._kept_open,
                start_new_session=True,
            )


class _Forked:
    """A child of a nursery as a process."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._exit_code: int | None = None

    @property
    def pid(self) -> int:
        return self._child.pid

    def poll(self) -> int | None:
        return self._poll(patience_s=0.0)

    def wait(self) -> int:
        code = self._poll(patience_s=None)
        assert code is not None
        return code

    def _poll(self, *, patience_s: float | None) -> int | None:
        if self._exit_code is None and self._child.has_ended(patience_s=patience_s):
            self._exit_code = self._child.exit_code()
        return self._exit_code

    def terminate(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


def command_line(words: Sequence[str], *, num_ranks: int) -> list[str]:
    """Return the command line of a verb."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"]
    module = ["-m", "video_llama.apps.main", *words]
    return [sys.executable, *(launcher if num_ranks > 1 else []), *module]
