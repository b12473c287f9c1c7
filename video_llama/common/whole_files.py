"""Writes small files so that at every moment the old one or the new one is there, and whole."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PARTIAL_SUFFIX = ".partial"
"""Added to the name of a file that is being written; what a killed process leaves."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place and rename it.

    Args:
        path: its folder is made if need be.
        content: text is written as UTF-8, its line ends as they are.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
