"""The process a nursery is: it forks a child for every request, and reports how children end.

What is asked of it and by whom is told in `nursery`; nothing here runs in a process that computes.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from video_llama.processors.wire import receive_message, send_message

Target = Callable[[socket.socket], int | None]
"""What a child does with its end of a socket, and its exit code; sent to it by pickle.

If it has a method `prepare`, that is called before anybody knows of the child.
"""

PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""

STATUS = struct.Struct("<i")


def run_alone() -> NoReturn:
    """Be a nursery in a fresh interpreter; called by `PROGRAM`."""
    parent = int(sys.argv[2])
    if parent:
        die_with(parent)
    importlib.import_module(sys.argv[3])
    # What is there by now is there for good: collections in children would only copy it.
    gc.freeze()
    run(socket.socket(fileno=int(sys.argv[1])))


def run(control: socket.socket) -> NoReturn:
    """Fork a child for every pair of descriptors that comes in; report those that end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.disable()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    events = select.poll()
    for descriptor in (control.fileno(), woken):
        events.register(descriptor, select.POLLIN)
    statuses: dict[int, int] = {}
    while True:
        ready = [descriptor for descriptor, _ in events.poll()]
        if woken in ready:
            os.read(woken, 1 << 12)
            _report(statuses)
        if control.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
            if not message:
                for pid in statuses:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            theirs, status = descriptors
            try:
                pid = os.fork()
            except OSError:
                # No room for another process: those that are there go on.
                traceback.print_exc()
                os.close(theirs)
                os.close(status)
                continue
            if pid == 0:
                for descriptor in (control.fileno(), woken, wake, status, *statuses.values()):
                    os.close(descriptor)
                _be_child(socket.socket(fileno=theirs))
            os.close(theirs)
            statuses[pid] = status


def _report(statuses: dict[int, int]) -> None:
    """Take leave of children that ended, and say how."""
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        report = statuses.pop(pid)
        # Nobody reads it if the parent let go of the child without asking.
        with contextlib.suppress(BrokenPipeError):
            os.write(report, STATUS.pack(os.waitstatus_to_exitcode(status)))
        os.close(report)


def _be_child(connection: socket.socket) -> NoReturn:
    """Do what the first message says, and end."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        die_with(os.getppid())
        target: Target = pickle.loads(receive_message(connection).content)
        getattr(target, "prepare", lambda: None)()
        send_message(connection, STATUS.pack(os.getpid()))
        code = target(connection) or 0
    except Exception:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, where the kernel is Linux."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
