"""A folder for files that people hand over: gone with the process that made it.

A decoder that dies cannot leave anything behind, for it writes nothing. What a server leaves that
is killed itself (SIGKILL, power) is removed by the next one: a folder whose lock nobody holds
belongs to nobody. Names that strangers choose never become part of a path.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from video_llama.common.errors import MediaError

if TYPE_CHECKING:
    from types import TracebackType

PREFIX = "video-llama-uploads-"
LOCK = "owner.lock"
BLOCK_BYTES = 1 << 20


class UploadFolder:
    """A private folder in the system's temporary one; a context that removes it.

    Also removed when nobody holds the object any more, and when the process ends by itself. Safe
    for many threads.

    Args:
        parent: where to make it, None for the system's temporary folder.

    Attributes:
        path: of the folder.
    """

    def __init__(self, *, parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        remove_forgotten(parent)
        # Not to be found under its name before it is locked.
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
        lock = os.open(made / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.path = made.rename(made.with_name(made.name.removeprefix(".")))
        self._remove = weakref.finalize(self, _remove, self.path, lock, os.getpid())

    def __enter__(self) -> UploadFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder and all that is in it."""
        self._remove()

    @contextmanager
    def file(self, content: bytes | BinaryIO, *, max_bytes: int | None = None) -> Iterator[Path]:
        """Keep content in a file as long as the context lasts.

        Args:
            content: bytes, or an open file that is read to its end.
            max_bytes: most that is taken.

        Yields:
            The path of the file; its name tells nothing.

        Raises:
            MediaError: more than `max_bytes`, or the disk does not take it.
        """
        descriptor, name = tempfile.mkstemp(dir=self.path)
        path = Path(name)
        try:
            try:
                with os.fdopen(descriptor, "wb") as file:
                    _fill(file, content, max_bytes=max_bytes)
            except OSError as error:
                raise MediaError(f"cannot be kept for reading ({error.strerror})") from error
            yield path
        finally:
            path.unlink(missing_ok=True)


def remove_forgotten(parent: Path) -> None:
    """Remove folders of processes that ended without doing so; those of others are let alone."""
    for folder in parent.glob(f"{PREFIX}*"):
        # Of another user, or just removed by another process.
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _fill(file: BinaryIO, content: bytes | BinaryIO, *, max_bytes: int | None) -> None:
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    size = 0
    while block := source.read(BLOCK_BYTES):
        size += len(block)
        if max_bytes is not None and size > max_bytes:
            raise MediaError(f"more than {max_bytes / 2**20:g} MiB; make it smaller first")
        file.write(block)


def _remove(path: Path, lock: int, owner: int) -> None:
    """Remove a folder, unless this is a fork of the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)
