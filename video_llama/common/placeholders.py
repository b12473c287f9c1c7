"""Paths that stand in published run files for the reader's own, e.g. `path/pretrained_ckpt`."""

from __future__ import annotations

import re
from pathlib import Path

PLACEHOLDER = re.compile(
    r"(?:^|/)(?:path|your[_ -]\w+|path[_ -]to\w*)(?:/|$)|[_ -]path/?$|<[^<>]+>|\.{3}",
    re.IGNORECASE,
)
"""`path/...`, `/path/to/...`, `your_path`, `ckpt/imagebind_path/`, `<folder>`, `x...`."""


def is_placeholder(path: str | Path) -> bool:
    """Tell whether a path that does not exist was never meant to."""
    return PLACEHOLDER.search(str(path)) is not None


def placeholder_hint(path: str | Path) -> str:
    """End the sentence that there is no such path; "" if it is an ordinary one."""
    if not is_placeholder(path):
        return ""
    return ", which is a placeholder; put the path of your own there"
