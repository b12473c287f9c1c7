"""Saving beside the training: a copy in host memory now, the writing in a thread.

What is written, and where, is not known here. The thread holds Python's lock only for moments:
reading, writing and flushing files and CRC-32 all let the training go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType

import torch
from torch import Tensor

from video_llama.common.errors import VideoLlamaError
from video_llama.common.logger import get_logger


class HostCopy:
    """Copies tensors into host memory, which is kept from one time to the next."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy tensors; those of the last call are overwritten.

        Args:
            tensors: by name, on any device.

        Returns:
            Contiguous CPU tensors by the same names.
        """
        self._buffers = {name: self._buffer(name, like=t) for name, t in tensors.items()}
        for name, tensor in tensors.items():
            self._buffers[name].copy_(tensor.detach(), non_blocking=True)
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return self._buffers

    def _buffer(self, name: str, *, like: Tensor) -> Tensor:
        """Return memory for a tensor; a GPU copies several times as fast into pinned pages."""
        known = self._buffers.get(name)
        if known is not None and (known.shape, known.dtype) == (like.shape, like.dtype):
            return known
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)


class Background:
    """Runs one job at a time in a thread; what goes wrong in it is raised by the next call.

    The thread does not keep a process alive that wants to end at once.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._outcome = _Outcome()

    def start(self, job: Callable[[], None]) -> None:
        """Start a job, after the one before.

        Args:
            job: what to do.

        Raises:
            Exception: of the job before, which is then not followed by this one.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="save", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Return at once.

        Raises:
            Exception: of a job that failed and is over.
        """
        # While it runs, its error could come between the reading and the clearing, and be lost.
        if self._thread is not None and self._thread.is_alive():
            return
        error, self._outcome.error = self._outcome.error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait for the job that runs.

        Raises:
            Exception: of a job that failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def finish(self) -> None:
        """Wait for the job that runs, while another error is on its way; this one is logged."""
        try:
            self.wait()
        except VideoLlamaError as error:
            get_logger().error("%s", error)

    def _run(self, job: Callable[[], None]) -> None:
        with self._outcome:
            job()


class _Outcome:
    """Keeps what is raised in a `with` block for another thread to raise."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.error = error
        return True
