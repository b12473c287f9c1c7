"""A run's numbers in TensorBoard's files, where it is installed; it never ends a training.

Its writer works in a thread of its own and tells of a full disk at any later call.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from video_llama.common.logger import get_logger


class Board:
    """Writes until the first failure, which is one warning.

    Args:
        folder: of TensorBoard's files.
        step: optimizer step the run starts from; later numbers are hidden.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        self._folder = folder
        self._writer: Any = None
        if importlib.util.find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        with self._until_it_fails():
            self._writer = SummaryWriter(folder, purge_step=step + 1 if step else None)

    def write(self, step: int, *, values: Mapping[str, float]) -> None:
        """Add the numbers of a step, by name."""
        if self._writer is not None:
            with self._until_it_fails():
                for name, value in values.items():
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what waits, and end."""
        if self._writer is not None:
            with self._until_it_fails():
                self._writer.close()

    @contextlib.contextmanager
    def _until_it_fails(self) -> Iterator[None]:
        """Switch it off where a `with` block fails."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._writer = None
            get_logger().warning(
                "%s: TensorBoard cannot write and gets no more numbers, metrics.jsonl does: %s",
                self._folder,
                error,
            )
