"""Verbs in processes of their own, one or several ranks each.

A fresh interpreter needs seconds to import torch and transformers, more than many a verb then
works. `Verbs` imports them once, in a nursery, and forks a process for every verb. What computes
on a GPU is started afresh, as by hand: a driver that anything has asked for a device while it was
imported does not survive a fork.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from types import TracebackType
from typing import Protocol

from video_llama.apps.devices import available_devices
from video_llama.apps.main import main
from video_llama.common.errors import VideoLlamaError
from video_llama.common.logger import get_logger
from video_llama.processors.nursery import Child, Nursery

PRELOADED = "video_llama.apps.preloaded"
TAKEN_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that a nursery ignores and a verb does not."""


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


@dataclass(frozen=True)
class Call:
    """A verb to be run.

    Attributes:
        words: of its command line.
        num_ranks: more than one are started by torchrun.
        log: file that all it says is added to; None for this console.
        environment: added to this process's.
        kept_open: files that live as long as the process, e.g. a lock.
    """

    words: Sequence[str]
    num_ranks: int = 1
    log: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    kept_open: tuple[int, ...] = ()

    def __call__(self, connection: socket) -> int:
        """Run the verb in a child of a nursery; return its exit code."""
        os.setsid()
        for number in TAKEN_BACK:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(self.environment)
        if self.log is not None:
            with self.log.open("ab") as log:
                for stream in (sys.stdout, sys.stderr):
                    os.dup2(log.fileno(), stream.fileno())
        sys.argv = ["video-llama", *self.words]
        try:
            code = main(self.words) if self.num_ranks == 1 else self._run_ranks()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        # Data workers end here, and what is still to be said is said; a nursery's child would not.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        return code

    def _run_ranks(self) -> int:
        """Run ranks as torchrun does, but forked from this process."""
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=self.num_ranks,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            start_method="fork",
        )
        try:
            elastic_launch(config, _be_rank)(self.words)
        except ChildFailedError as error:
            print(error, file=sys.stderr)
            return 1
        return 0


def _be_rank(words: Sequence[str]) -> None:
    """Run a verb in one of several ranks; a rank that fails ends the others."""
    for number in TAKEN_BACK:
        # Those of the process that started the ranks are no affair of theirs.
        signal.signal(number, signal.SIG_DFL)
    code = main(words)
    sys.stdout.flush()
    if code:
        sys.exit(code)


class Verbs:
    """Starts verbs; used as a context, it imports what they need once.

    Args:
        warm: fork them from a process that has imported everything; else they are started afresh.
            None decides by whether there is anything but a CPU.
    """

    def __init__(self, *, warm: bool | None = None) -> None:
        if warm is None:
            warm = set(available_devices()) <= {"cpu"}
        self._nursery = Nursery(PRELOADED) if warm else None

    def __enter__(self) -> Verbs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._nursery is not None:
            self._nursery.close()

    def start(self, call: Call) -> VerbProcess:
        """Start a verb in a session of its own.

        Ctrl-C then reaches this process alone, which asks every verb once.
        """
        if self._nursery is not None:
            try:
                # Files need not be kept open: what a nursery forks dies with this process.
                return _Forked(self._nursery.start(call))
            except OSError as error:
                get_logger().warning("verbs are started afresh from here on: %s", error)
                self._nursery.kill()
                self._nursery = None
        return _start_afresh(call)

    def call(self, words: Sequence[str], *, num_ranks: int = 1) -> None:
        """Run a verb on this console.

        Raises:
            VideoLlamaError: it failed.
        """
        process = self.start(Call(words, num_ranks=num_ranks))
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if code:
            raise VideoLlamaError(f"video-llama {' '.join(words)}: exit code {code}")


class _Forked:
    """A child of a nursery as a process."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._exit_code: int | None = None

    @property
    def pid(self) -> int:
        return self._child.pid

    def poll(self) -> int | None:
        if self._exit_code is None and self._child.has_ended(patience_s=0.0):
            self._exit_code = self._child.exit_code()
        return self._exit_code

    def wait(self) -> int:
        if self._exit_code is None and self._child.has_ended(patience_s=None):
            self._exit_code = self._child.exit_code()
        assert self._exit_code is not None
        return self._exit_code

    def terminate(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


def _start_afresh(call: Call) -> VerbProcess:
    """Start a verb in a fresh interpreter that keeps to one core."""
    environment = {**os.environ, **call.environment, "OMP_NUM_THREADS": "1"}
    command = command_line(call.words, num_ranks=call.num_ranks)
    if call.log is None:
        return subprocess.Popen(
            command, env=environment, pass_fds=call.kept_open, start_new_session=True
        )
    with call.log.open("ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=call.kept_open,
            start_new_session=True,
        )


def command_line(words: Sequence[str], *, num_ranks: int) -> list[str]:
    """Return the command line of a verb."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"]
    module = ["-m", "video_llama.apps.main", *words]
    return [sys.executable, *(launcher if num_ranks > 1 else []), *module]
