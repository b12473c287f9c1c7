"""Which checkpoints a run keeps: the newest ones and the best, each under a link.

checkpoints/step_0001000, step_0001500   see `checkpoint`
checkpoints/last, best                   links to two of them
checkpoints/superseded_step_0002000      of a future the run was sent back from, or of another past
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from video_llama.common.errors import VideoLlamaError
from video_llama.common.logger import get_logger
from video_llama.runners.checkpoint import (
    PARTIAL_PREFIX,
    RunState,
    find_damage,
    write_checkpoint,
)

STEP_PATTERN = re.compile(r"step_(\d+)$")


def save_checkpoint(
    folder: Path,
    *,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: RunState,
    keep_last: int,
) -> Path:
    """Write a checkpoint, point `last` (and `best`) at it, and delete those that are not kept.

    Args:
        folder: the run's `checkpoints` directory.
        weights: trained parameters by name.
        optimizer: optimizer moments by name.
        state: where the run stands.
        keep_last: see `prune`.

    Returns:
        The directory of the checkpoint.

    Raises:
        VideoLlamaError: it cannot be written, and older ones are untouched; or it is, and what is
            beside it cannot be changed.
    """
    target = step_path(folder, state.step)
    write_checkpoint(target, weights=weights, optimizer=optimizer, state=state)
    try:
        update_links(folder, state)
        prune(folder, keep_last=keep_last)
    except OSError as error:
        raise VideoLlamaError(
            f"{target}: written whole, but {error}: the links beside it, or older checkpoints that "
            "are not kept, cannot be changed; mend that and go on with run.resume_ckpt_path=auto"
        ) from error
    return target


def update_links(folder: Path, state: RunState) -> None:
    """Point `last` at the checkpoint of `state`, and `best` at the best one it knows."""
    if step_path(folder, state.step).exists():
        _link(folder / "last", step_path(folder, state.step))
    if state.best_step is not None and step_path(folder, state.best_step).exists():
        _link(folder / "best", step_path(folder, state.best_step))


def step_path(folder: Path, step: int) -> Path:
    """Return the directory of a step's checkpoint."""
    return folder / f"step_{step:07d}"


def step_of(checkpoint: Path) -> int:
    """Return the step in a directory's name."""
    return int(checkpoint.name.split("_")[1])


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints whose files are all there, oldest first; nothing is read whole."""
    return [path for path in _directories(folder) if find_damage(path) is None]


def newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint without a fault; newer ones are named with theirs in the log."""
    for path in reversed(_directories(folder)):
        damage = find_damage(path, is_thorough=True)
        if damage is None:
            return path
        get_logger().warning("%s is damaged (%s); taking the one before", path, damage)
    return None


def prune(folder: Path, *, keep_last: int) -> None:
    """Delete all but the newest checkpoints and the best, and what a killed run left half-written.

    Args:
        folder: the run's `checkpoints` directory.
        keep_last: checkpoints to keep, the best one not counted; at least one is kept.
    """
    best = folder / "best"
    kept = set(complete_checkpoints(folder)[-max(keep_last, 1) :])
    kept.add(folder / best.readlink() if best.is_symlink() else best)
    for path in folder.iterdir():
        ours = STEP_PATTERN.match(path.name) or path.name.startswith(PARTIAL_PREFIX)
        if ours and path not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def set_aside_newer(folder: Path, *, step: int) -> list[Path]:
    """Rename checkpoints after `step`, so that a run sent back there does not return to them.

    A link to one of them goes. What is renamed is never deleted, but for one of the same step.

    Args:
        folder: the run's `checkpoints` directory; it need not exist.
        step: -1 renames all.

    Returns:
        Where they are now.
    """
    moved = []
    for path in _directories(folder):
        if step_of(path) > step:
            aside = path.with_name(f"superseded_{path.name}")
            if aside.exists():
                shutil.rmtree(aside)
            moved.append(path.rename(aside))
    for link in (folder / "last", folder / "best"):
        if link.is_symlink() and not link.exists():
            link.unlink()
    return moved


def _directories(folder: Path) -> list[Path]:
    """Return what is called like a checkpoint, oldest first."""
    return sorted(filter(lambda p: STEP_PATTERN.match(p.name), folder.glob("step_*")), key=step_of)


def _link(link: Path, target: Path) -> None:
    """Point a relative link somewhere else in one step."""
    partial = link.with_name(f"{PARTIAL_PREFIX}{link.name}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target.name)
    partial.replace(link)
