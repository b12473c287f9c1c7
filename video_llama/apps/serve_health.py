"""What a server says of its own state."""

from __future__ import annotations

import os
from pathlib import Path

GIB = 2**30


def memory_gib() -> dict[str, float]:
    """Return the memory this process holds: `process`, and `gpu` where one is in use."""
    memory = {}
    pages = Path("/proc/self/statm")
    if pages.exists():
        resident = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        memory["process"] = round(resident / GIB, 3)
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        memory["gpu"] = round(torch.cuda.memory_allocated() / GIB, 3)
    return memory
