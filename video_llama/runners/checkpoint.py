"""Checkpoints of a run: whole or not there at all, small, and safe to read.

    checkpoints/step_0001000/trainable.safetensors   trained parameters by their names in the model
                             optimizer.safetensors   moments, `<parameter>::<moment>`
                             state.json              RunState, and the size of the two files
    checkpoints/last, checkpoints/best               links to such directories

A checkpoint is written next to its place, flushed to the disk and renamed, so that a process
killed at any moment leaves the one before. There is no random state in it: order, augmentation and
dropout are functions of the seed and the step.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from video_llama.common.errors import CheckpointMismatch, VideoLlamaError

WEIGHTS_FILE = "trainable.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
PARTIAL_PREFIX = ".partial_"
STEP_PATTERN = re.compile(r"step_(\d+)$")


@dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        steps_per_epoch: optimizer steps of one epoch.
        global_batch_size: samples of one optimizer step over all ranks.
        best_metric: best validation loss so far, in nats per token.
        best_step: step it was reached at.
        num_skipped: unusable samples met so far, by data set.
        config: the resolved run file.
    """

    step: int
    steps_per_epoch: int
    global_batch_size: int
    best_metric: float | None = None
    best_step: int | None = None
    num_skipped: dict[str, int] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters by name, on the CPU; shared ones once."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def save_checkpoint(
    folder: Path,
    *,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: RunState,
) -> Path:
    """Write one checkpoint, whole or not at all, and point `last` (and `best`) at it.

    Args:
        folder: the run's `checkpoints` directory.
        weights: trained parameters by name.
        optimizer: optimizer moments by name.
        state: where the run stands.

    Returns:
        The directory of the checkpoint.

    Raises:
        VideoLlamaError: it cannot be written, e.g. the disk is full; older ones are untouched.
    """
    target = step_path(folder, state.step)
    if _is_complete(target):
        # The same step of the same run: equal content, and never a moment without it.
        return target
    partial = folder / f"{PARTIAL_PREFIX}{target.name}_{os.getpid()}"
    with _explain_write_error(target, partial):
        folder.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        save_file(dict(weights), partial / WEIGHTS_FILE)
        save_file({name: t.detach().cpu().contiguous() for name, t in optimizer.items()},
                  partial / OPTIMIZER_FILE)  # fmt: skip
        sizes = {name: (partial / name).stat().st_size for name in (WEIGHTS_FILE, OPTIMIZER_FILE)}
        text = json.dumps({**asdict(state), "files": sizes}, indent=1)
        (partial / STATE_FILE).write_text(text, encoding="utf-8")
        for file in (*partial.iterdir(), partial):
            _flush(file)
        if target.exists():
            shutil.rmtree(target)
        partial.replace(target)
        _flush(folder)
        update_links(folder, state)
    return target


def update_links(folder: Path, state: RunState) -> None:
    """Point `last` at the checkpoint of `state`, and `best` at the best one it knows."""
    _link(folder / "last", step_path(folder, state.step))
    if state.best_step is not None:
        _link(folder / "best", step_path(folder, state.best_step))


def step_path(folder: Path, step: int) -> Path:
    """Return the directory of a step's checkpoint."""
    return folder / f"step_{step:07d}"


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that can be loaded, oldest first."""
    found = [path for path in folder.glob("step_*") if STEP_PATTERN.match(path.name)]
    return sorted(filter(_is_complete, found), key=lambda path: int(path.name.split("_")[1]))


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
            path.unlink() if path.is_symlink() else shutil.rmtree(path)


def set_aside_newer(folder: Path, *, step: int) -> list[Path]:
    """Rename checkpoints after `step`, so that a run sent back there does not return to them.

    Returns:
        Where they are now.
    """
    moved = []
    for path in complete_checkpoints(folder):
        if int(path.name.split("_")[1]) > step:
            aside = path.with_name(f"superseded_{path.name}")
            if aside.exists():
                shutil.rmtree(aside)
            moved.append(path.rename(aside))
    return moved


def read_state(checkpoint: Path) -> RunState:
    """Read where a run stood.

    Raises:
        CheckpointMismatch: the directory is no complete checkpoint.
    """
    if not _is_complete(checkpoint):
        raise CheckpointMismatch(
            f"{checkpoint}: not a complete checkpoint (expected {WEIGHTS_FILE}, {OPTIMIZER_FILE} "
            f"and {STATE_FILE} that agree); copy it again, or use run.resume_ckpt_path=auto"
        )
    values = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    values.pop("files")
    return RunState(**values)


def load_trainable(model: nn.Module, *, checkpoint: Path) -> None:
    """Put a checkpoint's trained parameters into the model, strictly both ways.

    Raises:
        CheckpointMismatch: names or shapes differ.
    """
    stored = load_file(checkpoint / WEIGHTS_FILE)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    faults = [f"{name}: only in the model" for name in trained.keys() - stored.keys()]
    faults += [f"{name}: only in the checkpoint" for name in stored.keys() - trained.keys()]
    faults += [
        f"{name}: {list(stored[name].shape)} in the checkpoint, {list(p.shape)} in the model"
        for name, p in trained.items()
        if name in stored and stored[name].shape != p.shape
    ]
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in sorted(faults)[:10])
        raise CheckpointMismatch(
            f"{checkpoint}: {len(faults)} trained parameters do not fit the model\n{listed}"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(stored[name])


def load_optimizer_file(checkpoint: Path) -> dict[str, Tensor]:
    """Read the optimizer moments of a checkpoint."""
    return load_file(checkpoint / OPTIMIZER_FILE)


def _is_complete(checkpoint: Path) -> bool:
    """Tell whether all files are there with their full size; a half-copied one is not."""
    try:
        values = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        sizes = values["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _flush(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(link: Path, target: Path) -> None:
    """Point a relative link somewhere else in one step."""
    partial = link.with_name(f"{PARTIAL_PREFIX}{link.name}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target.name)
    partial.replace(link)


@contextlib.contextmanager
def _explain_write_error(target: Path, partial: Path) -> Iterator[None]:
    """Clean up after a failed write and say what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        free_gib = shutil.disk_usage(target.parent).free / 2**30
        raise VideoLlamaError(
            f"{target}: cannot write the checkpoint: {error} ({free_gib:.2f} GiB free); older "
            "checkpoints are untouched. Make room and start again with "
            "run.resume_ckpt_path=auto; run.keep_last=1 needs the least"
        ) from error
