"""Decoding in a child process that may crash, hang or run out of memory without taking us along.

Whatever a file does to its decoder becomes a `MediaError` of that file; the next file finds a new
child. `Supervisor` is the machinery, `SupervisedLoader` reads samples with it in a training process
and its data workers; `SupervisedUploads` of `uploads` reads what people hand over. What comes back
is unpickled from a list of known classes alone, so that a decoder somebody took over by a prepared
file cannot run code outside its process.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from video_llama.common.errors import ConfigError, MediaError, VideoLlamaError
from video_llama.common.types import MediaItem
from video_llama.processors.media import Request
from video_llama.processors.nursery import Child, start_child
from video_llama.processors.wire import (
    Inbox,
    MalformedReply,
    Outbox,
    Reply,
    receive_message,
    send_message,
)

MEMORY_GIB = 8.0
"""What a child may take beside what it starts with; 8K video needs two."""

PATIENCE_S = 1.0
"""A child that hung up is about to end; killing it at once would hide why."""

ORPHAN_S = 5.0
"""How long after the time limit a child ends itself, should nobody be left to do it."""


Work = Callable[[Any], object]
"""A picklable function of one argument, e.g. a method of a reader."""


class Reader(Protocol):
    """What reads media, e.g. `processors.media.MediaLoader`; it must be picklable."""

    def load_all(self, requests: Sequence[Request]) -> list[MediaItem]:
        """Return the items of one sample with pixels or mel and times.

        Raises:
            MediaError: one of them cannot be read.
        """


class SupervisedLoader:
    """A reader of media whose work is done in a child process.

    Args:
        reader: does the work; sent to the child, not used here.
        timeout_s: seconds of the clock that one call may take.
        memory_gib: see `Supervisor`.
    """

    def __init__(
        self, reader: Reader, *, timeout_s: float, memory_gib: float | None = MEMORY_GIB
    ) -> None:
        self.reader = reader
        self._supervisor = Supervisor(reader.load_all, timeout_s=timeout_s, memory_gib=memory_gib)

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._supervisor.pid

    def load_all(self, requests: Sequence[Request]) -> list[MediaItem]:
        """Decode the items of one sample, see `MediaLoader.load_all`; none asks nobody.

        Raises:
            MediaError: one cannot be read, its decoder crashed, or all took too long.
            VideoLlamaError: whatever else the reader refuses.
        """
        if not requests:
            return []
        files = ", ".join(dict.fromkeys(request.item.path for request in requests))
        return cast("list[MediaItem]", self._supervisor.call(requests, files=files))

    def close(self) -> None:
        """End the child, if there is one; a later call starts another."""
        self._supervisor.close()


class Supervisor:
    """Does one kind of work in a child process, call by call, from any thread.

    Can be sent to other processes, where it starts a child of its own.

    Args:
        work: takes a call and returns what `wire.VALUES` knows; sent to the child, not used here.
        timeout_s: seconds of the clock that one call may take.
        memory_gib: what the child may take beside what it starts with, None for no limit;
            kept on Linux.
    """

    def __init__(
        self, work: Work, *, timeout_s: float, memory_gib: float | None = MEMORY_GIB
    ) -> None:
        self.work = work
        self.timeout_s = timeout_s
        self.memory_gib = memory_gib
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._pid = 0
        self._answers = Inbox()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("work", "timeout_s", "memory_gib")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return None if self._child is None else self._child.pid

    def call(self, request: object, *, files: str) -> object:
        """Let the child do its work; calls of several threads are done one after the other.

        Args:
            request: what the work takes.
            files: names of the files at work, for errors.

        Raises:
            MediaError: a file cannot be read, its decoder crashed, or took too long.
            VideoLlamaError: whatever else the work refuses.
        """
        call = pickle.dumps(request)
        with self._lock:
            reply = self._ask(call, files=files)
        if reply.outcome == "done":
            return reply.value
        if reply.outcome == "refused":
            raise cast(VideoLlamaError, reply.value)
        raise MediaError(f"the decoder crashed ({reply.value})", path=files)

    def close(self) -> None:
        """End the child, if there is one; a later call starts another."""
        with self._lock:
            self._end()

    def _ask(self, call: bytes, *, files: str) -> Reply:
        """Let the child work; it is ended if it does not answer, or as it should not."""
        try:
            child = self._told(call)
            reply = self._answers.receive(child.socket)
        except TimeoutError as error:
            self._end()
            reason = f"not decoded within {self.timeout_s:g} s"
            raise MediaError(reason, path=files) from error
        except (EOFError, ConnectionError) as error:
            ended = self._end(patience_s=PATIENCE_S)
            raise MediaError(f"the decoder crashed ({ended})", path=files) from error
        except MalformedReply as error:
            self._end()
            raise MediaError(f"the decoder crashed ({error})", path=files) from error
        except BaseException:
            # Half a call, or an answer still to come, must not become part of the next one.
            self._end()
            raise
        if reply.outcome == "failed":
            self._end(patience_s=PATIENCE_S)
        return reply

    def _told(self, call: bytes) -> Child:
        """Send a call to the child; one that was killed while it waited is replaced."""
        child = self._running()
        try:
            send_message(child.socket, call)
        except ConnectionError:
            self._end()
            child = self._running()
            send_message(child.socket, call)
        return child

    def _running(self) -> Child:
        """Return the child of this process, started if need be."""
        if self._child is not None and self._pid != os.getpid():
            # Of the process this one was forked from, which goes on using it.
            self._child.socket.close()
            self._child = None
        if self._child is None:
            self._child = start_child(_Service(self.work, self.timeout_s, self.memory_gib))
            self._child.socket.settimeout(self.timeout_s)
            self._pid, self._answers = os.getpid(), Inbox()
            # One that nobody holds any more takes its child along; at the very end all go anyway.
            self._release = weakref.finalize(self, _release, self._child, self._pid)
            self._release.atexit = False
        return self._child

    def _end(self, *, patience_s: float = 0.0) -> str:
        """End the child, if there is one; say how it ended."""
        child, self._child = self._child, None
        if child is None or self._pid != os.getpid():
            return ""
        self._release.detach()
        return child.end(patience_s=patience_s)


@dataclass(frozen=True)
class _Service:
    """What a child does: answers calls until nobody asks any more.

    Attributes:
        work: what is done.
        timeout_s: seconds after which the parent gives a call up.
        memory_gib: see `Supervisor`.
    """

    work: Work
    timeout_s: float
    memory_gib: float | None

    def __call__(self, connection: socket.socket) -> None:
        # Not on every system, and needed in the child alone.
        import resource

        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        mapped = _address_space()
        if self.memory_gib is not None and mapped is not None:
            limit = mapped + int(self.memory_gib * 2**30)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        answers = Outbox()
        while True:
            try:
                call = receive_message(connection).content
            except EOFError:
                return
            # SIGALRM ends a process unless it is handled, whatever library it hangs in.
            signal.setitimer(signal.ITIMER_REAL, self.timeout_s + ORPHAN_S)
            try:
                reply = self._answer(call)
            except MemoryError as error:
                # What is left of the heap is of no use to the next file.
                allowed = "" if self.memory_gib is None else f", {self.memory_gib:g} GiB allowed"
                answers.send(connection, Reply("failed", f"out of memory{allowed}"))
                raise SystemExit from error
            except Exception as error:
                answers.send(connection, Reply("failed", _described(error)))
                raise SystemExit from error
            signal.setitimer(signal.ITIMER_REAL, 0)
            answers.send(connection, reply)

    def _answer(self, call: bytes) -> Reply:
        """Do one call."""
        try:
            return Reply("done", self.work(pickle.loads(call)))
        except VideoLlamaError as error:
            return Reply("refused", error)
        except ImportError as error:
            return Reply("refused", ConfigError(f"media cannot be decoded: {error}"))


def _release(child: Child, owner: int) -> None:
    """End a child, unless it is that of the process this one was forked from."""
    if os.getpid() == owner:
        child.end()


def _described(error: Exception) -> str:
    """Say what an error nobody foresaw was, and where it happened."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}, at {Path(place.filename).name}:{place.lineno}"


def _address_space() -> int | None:
    """Return the bytes this process has mapped, None where nobody can tell."""
    file = Path("/proc/self/statm")
    if not file.exists():
        return None
    return int(file.read_text().split()[0]) * mmap.PAGESIZE
