"""Processes that are allowed to die: forked in milliseconds, watched, and gone when we are.

Code that may crash, hang or eat all memory (a decoder at work on somebody's file) runs in a
child. Children are forked by a nursery: a process of one thread, which has imported what they
need, so that another one is there at once. The nursery itself is forked if this process has a
single thread, as a data worker has at first, and is a fresh interpreter otherwise: what other
threads hold at a fork stays locked in the child for ever.

Nobody survives us: the kernel kills a nursery with its parent and children with their nursery
(Linux), and all of them leave when their sockets close. SIGINT, SIGTERM and SIGUSR1, which a
terminal or a scheduler sends to everybody, are the parent's affair.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.errors import VideoLlamaError
from video_llama.processors.forking import STATUS, Target, die_with, run
from video_llama.processors.wire import receive_message, send_message

PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[4]); "
    "from video_llama.processors.forking import run_alone; run_alone()"
)
PRELOADED = "video_llama.processors.media"
"""Imported by a fresh interpreter before it forks, if nothing else is asked for."""

START_S = 120.0
"""A nursery that is a fresh interpreter imports its libraries first, maybe from a slow disk."""

REAP_S = 10.0
"""A dead child is reported at once; this is for a nursery that is stopped or starved."""


@dataclass(frozen=True)
class Child:
    """A running child.

    Attributes:
        socket: our end of the connection.
        status: where its end is reported.
        pid: of the process.
    """

    socket: socket.socket
    status: int
    pid: int

    def end(self, *, patience_s: float = 0.0) -> str:
        """Let go of the child, and say how it ended; the second time it is "".

        Args:
            patience_s: how long it may take to end by itself before it is killed.
        """
        if self.socket.fileno() < 0:
            return ""
        _hang_up(self.socket)
        if not self.has_ended(patience_s=patience_s):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        code = self._reported(patience_s=REAP_S)
        return "killed" if code is None else _told(code)

    def has_ended(self, *, patience_s: float | None) -> bool:
        """Tell whether the child or its nursery has ended; None waits until it has."""
        ready = select.poll()
        ready.register(self.status, select.POLLIN)
        return bool(ready.poll(None if patience_s is None else patience_s * 1000))

    def exit_code(self) -> int:
        """Let go of a child that has ended; return its exit code, or minus the signal's number."""
        _hang_up(self.socket)
        code = self._reported(patience_s=0.0)
        return -signal.SIGKILL if code is None else code

    def _reported(self, *, patience_s: float) -> int | None:
        """Return the exit code, None if the nursery does not tell it."""
        told = os.read(self.status, STATUS.size) if self.has_ended(patience_s=patience_s) else b""
        os.close(self.status)
        return int(STATUS.unpack(told)[0]) if len(told) == STATUS.size else None


class Nursery:
    """Forks children for this process; see `nursery`.

    Args:
        preloaded: module that a fresh interpreter shall import before it forks; None forks this
            process if it has one thread.
        kept_open: files that a fresh interpreter and all it forks keep open.
    """

    def __init__(self, preloaded: str | None = None, *, kept_open: Sequence[int] = ()) -> None:
        self._owner = os.getpid()
        self._control, theirs = socket.socketpair()
        self._program: subprocess.Popen[bytes] | None = None
        dies_with_us = threading.current_thread() is threading.main_thread()
        if preloaded is None and num_threads() == 1:
            self._pid = _fork(theirs, but_not=[self._control])
        else:
            words = [str(theirs.fileno()), str(os.getpid() if dies_with_us else 0)]
            words.append(preloaded or PRELOADED)
            self._program = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-c", PROGRAM, *words, json.dumps(sys.path)],
                pass_fds=[theirs.fileno(), *kept_open],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
            self._pid = self._program.pid
        theirs.close()

    def start(self, target: Target) -> Child:
        """Start a child.

        Args:
            target: called in the child; the child ends when it returns.

        Raises:
            OSError: the nursery is dead, or the child does not answer in time.
        """
        ours, theirs = socket.socketpair()
        ours.settimeout(START_S)
        status_read, status_write = os.pipe()
        try:
            try:
                socket.send_fds(self._control, [b"+"], [theirs.fileno(), status_write])
            finally:
                # While they are open here, nobody would notice that the child is gone.
                theirs.close()
                os.close(status_write)
            send_message(ours, pickle.dumps(target))
            hello = receive_message(ours).content
        except (OSError, EOFError) as error:
            ours.close()
            os.close(status_read)
            raise OSError(f"no child could be started: {error}") from error
        ours.settimeout(None)
        return Child(ours, status_read, STATUS.unpack(hello)[0])

    def kill(self) -> None:
        """End a nursery that may not listen any more."""
        if os.getpid() == self._owner:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """End the nursery and all its children; in a fork of this process nothing happens."""
        if os.getpid() != self._owner:
            return
        _hang_up(self._control)
        if self._program is not None:
            self._program.wait()
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def nursery() -> Nursery:
    """Return the nursery of this process; it is started on first use and shared."""
    with _own.lock:
        if _own.nursery is None:
            _own.nursery = Nursery()
            atexit.register(_own.nursery.close)
        return _own.nursery


def start_child(target: Target) -> Child:
    """Start a child, with a new nursery if the old one was killed or does not answer.

    Raises:
        VideoLlamaError: that does not help.
    """
    first = nursery()
    try:
        return first.start(target)
    except OSError:
        with _own.lock:
            if _own.nursery is first:
                atexit.unregister(first.close)
                first.kill()
                _own.nursery = None
    try:
        return nursery().start(target)
    except OSError as error:
        raise VideoLlamaError(
            f"the process that media are decoded in cannot be started ({error}); set "
            "run.decode_timeout_s=null to do without"
        ) from error


def num_threads() -> int:
    """Count the threads of this process, those of libraries too; 0 if nobody can tell."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0


class _Own:
    """What belongs to this process and to no child of it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew; a forked data worker must neither use nor end its parent's nursery."""
        self.lock = threading.Lock()
        self.nursery: Nursery | None = None


_own = _Own()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own.forget)


def _fork(control: socket.socket, *, but_not: Sequence[socket.socket]) -> int:
    """Fork a nursery; return its process id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    # Nothing of the parent may run in here: neither its frames nor its finalizers.
    try:
        gc.freeze()
        for other in but_not:
            other.close()
        os.setsid()
        die_with(parent)
        run(control)
    except Exception:
        traceback.print_exc()
        raise
    finally:
        os._exit(1)


def _hang_up(connection: socket.socket) -> None:
    """Close a socket for all who share it, those we forked included."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _told(exit_code: int) -> str:
    """Say how a process ended."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    hint = ", out of memory?" if exit_code == -signal.SIGKILL else ""
    return f"signal {-exit_code}{hint}"
