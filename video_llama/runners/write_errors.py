"""What is said where a run's folder cannot be written: the file, the cause, and the room left."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from video_llama.common.errors import ConfigError, VideoLlamaError

ADVICE = "make room, or mend the folder, and start again with run.resume_ckpt_path=auto"


@contextlib.contextmanager
def explained(path: Path, *, what: str = "", advice: str = ADVICE) -> Iterator[None]:
    """Say in a `with` block what to do where a write in it fails.

    Args:
        path: what is written.
        what: is written there, where the path does not tell.
        advice: the way out.

    Raises:
        VideoLlamaError: instead of an `OSError`, which it names.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        free_gib = shutil.disk_usage(_nearest(path)).free / 2**30
        raise VideoLlamaError(
            f"{path}: cannot write{what and ' '}{what}: {error} ({free_gib:.2f} GiB free); {advice}"
        ) from error


def require_writable(folder: Path, *, key: str = "run.output_dir") -> None:
    """Look whether a folder can be written, or made, before anything else is done; make nothing.

    Args:
        folder: where results go.
        key: config key or flag that names it.

    Raises:
        ConfigError: it cannot.
    """
    nearest = _nearest(folder / "any")
    if not nearest.is_dir():
        why = f"{nearest} is a file"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        why = f"this user may not write into {nearest}"
    else:
        return
    raise ConfigError(f"{key}: {folder} cannot be written: {why}; name another folder")


def _nearest(path: Path) -> Path:
    """Return what is there of what a path is in; the root always is."""
    return next(parent for parent in path.absolute().parents if os.path.lexists(parent))
