"""The C library's heap, set up for programs that make and free large tensors all the time."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**31 - 1
LARGEST_BLOCK_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Let this process use freed blocks again instead of handing them back to the kernel.

    glibc hands freed memory back as soon as there is much of it, so that the tensors of the next
    step on the CPU are zeroed by the kernel page by page before they are written: a fifth of a
    step of the toy world's joint recipe. The process keeps its peak until it ends.

    Returns:
        Whether the C library knows the settings; others are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    keeps_top: bool = mallopt(M_TRIM_THRESHOLD, KEPT_BYTES) == 1
    maps_nothing: bool = mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK_BYTES) == 1
    return keeps_top and maps_nothing
