"""What passes between a process and a child that works for it: calls, and answers with tensors.

Tensors do not go through the socket; they lie in memory that both sides see. An answer is unpickled
from a list of known classes alone, so that a child somebody took over by a prepared file cannot run
code outside its process.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from video_llama.common.errors import VideoLlamaError
from video_llama.common.types import MediaItem
from video_llama.processors.readings import Reading

SIZE = struct.Struct("<Q")
MESSAGE_BYTES = 1 << 16
"""Read at once; most messages are shorter."""

ALIGNMENT = 64
"""Bytes; a tensor in shared memory begins at a multiple of them."""

KNOWN_MODULES = frozenset(
    f"video_llama.{name}"
    for name in ("common.errors", "common.members", "common.types", "processors.readings")
)
"""Where the classes are defined that a reply may name, beside `Reply`."""

KNOWN_FUNCTIONS = frozenset({"_rebuild_media_error"})
"""What of them is no class and builds one."""


@dataclass(frozen=True)
class Message:
    """What came through a socket, and files that came with it, open."""

    content: bytes
    descriptors: tuple[int, ...]


@dataclass(frozen=True)
class Reply:
    """What a child answers.

    Attributes:
        outcome: "done"; "refused" by an error of ours; "failed" by any other.
        value: what the work returned, the error, or its text.
    """

    outcome: Literal["done", "refused", "failed"]
    value: Any


REPLY = (Reply.__module__, Reply.__qualname__)

VALUES: Mapping[str, tuple[type, ...]] = {
    "done": (list, Reading),
    "refused": (VideoLlamaError,),
    "failed": (str,),
}
"""What belongs to an outcome; a list is one of media."""


def send_message(target: socket.socket, content: bytes, *, descriptors: Sequence[int] = ()) -> None:
    """Send a message, and open files with it."""
    data = SIZE.pack(len(content)) + content
    if descriptors:
        sent = socket.send_fds(target, [data], descriptors)
        data = data[sent:]
    target.sendall(data)


def receive_message(source: socket.socket) -> Message:
    """Receive what `send_message` sends; nothing may be sent before it was answered.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: it sends nothing for as long as the socket's time limit.
    """
    first, descriptors, _, _ = socket.recv_fds(source, MESSAGE_BYTES, 4)
    data = bytearray(first)
    missing = 0
    while len(data) < SIZE.size or (missing := SIZE.size + SIZE.unpack_from(data)[0] - len(data)):
        more = source.recv(min(max(missing, SIZE.size), MESSAGE_BYTES)) if data else b""
        if not more:
            raise EOFError("the other side is gone")
        data += more
    return Message(bytes(memoryview(data)[SIZE.size :]), tuple(descriptors))


class MalformedReply(Exception):
    """A child answered with something that no `Outbox` sends; never leaves a loader."""


class Outbox:
    """Sends answers; their tensors lie in memory that both sides see, one answer at a time."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None

    def send(self, connection: socket.socket, reply: Reply) -> None:
        """Send an answer; the next one overwrites its tensors."""
        tensors: list[Tensor] = []
        file = io.BytesIO()
        _Pickler(file, tensors).dump(reply)
        size = sum(_padded(tensor.nbytes) for tensor in tensors)
        descriptors = []
        if self._memory is None or size > len(self._memory):
            descriptors = [_shared_file(size)]
            self._memory = mmap.mmap(descriptors[0], 0)
        start = 0
        for tensor in tensors:
            place = torch.frombuffer(
                self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=start
            )
            place.copy_(tensor.flatten())
            start += _padded(tensor.nbytes)
        send_message(connection, file.getvalue(), descriptors=descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


class Inbox:
    """Receives what an `Outbox` sends."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None

    def receive(self, connection: socket.socket) -> Reply:
        """Receive an answer.

        Raises:
            EOFError: the child is gone.
            TimeoutError: it takes too long.
            MalformedReply: the answer is not one that is sent.
        """
        message = receive_message(connection)
        try:
            for descriptor in message.descriptors:
                self._memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE)
                os.close(descriptor)
            reply = _Unpickler(io.BytesIO(message.content), self._memory).load()
            _require_sendable(reply)
        except MalformedReply:
            raise
        except Exception as error:
            # What a prepared pickle raises is up to it.
            reason = f"its answer cannot be read, {type(error).__name__}: {error}"
            raise MalformedReply(reason) from error
        return cast(Reply, reply)


class _Pickler(pickle.Pickler):
    """Leaves tensors out, all but where they will lie."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file, protocol=5)
        self._tensors = tensors
        self._size = 0

    def persistent_id(self, value: object) -> tuple[int, str, tuple[int, ...]] | None:
        if not isinstance(value, Tensor):
            return None
        start = self._size
        self._tensors.append(value.detach())
        self._size += _padded(value.nbytes)
        return start, str(value.dtype).removeprefix("torch."), tuple(value.shape)


class _Unpickler(pickle.Unpickler):
    """Knows the classes of an answer and no others."""

    def __init__(self, file: io.BytesIO, memory: mmap.mmap | None) -> None:
        super().__init__(file)
        self._memory = memory

    def find_class(self, module: str, name: str) -> Any:
        if "." not in name and (module in KNOWN_MODULES or (module, name) == REPLY):
            found = super().find_class(module, name)
            is_ours = getattr(found, "__module__", None) == module
            if is_ours and (isinstance(found, type) or name in KNOWN_FUNCTIONS):
                return found
        raise MalformedReply(f"it answered with {module}.{name}")

    def persistent_load(self, place: tuple[int, str, tuple[int, ...]]) -> Tensor:
        start, dtype, shape = place
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=getattr(torch, dtype))
        if self._memory is None:
            raise MalformedReply("it answered with a tensor and shared no memory")
        shared = torch.frombuffer(
            self._memory, dtype=getattr(torch, dtype), count=count, offset=start
        )
        return shared.reshape(shape).clone()


def _require_sendable(reply: object) -> None:
    """Refuse what looks like an answer and is none."""
    if not isinstance(reply, Reply):
        raise MalformedReply(f"it answered with {type(reply).__name__}")
    if not isinstance(reply.value, VALUES[reply.outcome]):
        raise MalformedReply(f"it answered '{reply.outcome}' with {type(reply.value).__name__}")
    value = reply.value
    if isinstance(value, Reading) and not value.is_sound():
        raise MalformedReply("it answered with a reading of something else")
    for item in value if isinstance(value, list) else []:
        if not isinstance(item, MediaItem):
            raise MalformedReply(f"it answered with a {type(item).__name__} among media")


def _padded(size: int) -> int:
    """Round up to where any tensor may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _shared_file(size: int) -> int:
    """Open a file in memory that another process may map, with room for a few more bytes."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("media")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, max(2 * size, mmap.PAGESIZE))
    return descriptor
