"""How far a training run is, seen from outside while another process makes it."""

from __future__ import annotations

from pathlib import Path

from video_llama.runners.checkpoint import read_state
from video_llama.runners.retention import complete_checkpoints

TAIL_BYTES = 4096
"""Of metrics.jsonl, more than its longest line."""


def kept_steps(folder: Path) -> int:
    """Return the step of a run's newest complete checkpoint, 0 if there is none."""
    known = complete_checkpoints(folder / "checkpoints")
    return read_state(known[-1]).step if known else 0


def done_steps(folder: Path) -> int:
    """Return the step of the newest line of a run's metrics, 0 if there is none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        lines = file.read().decode(errors="replace").splitlines()
    steps = [word for line in lines for word in line.split('"step": ')[1:2]]
    return int(steps[-1].split(",")[0].rstrip("}")) if steps else 0
