"""A checkpoint of a run: a directory that is whole or not there at all, and safe to read.

    checkpoints/step_0001000/trainable.safetensors   trained parameters by their names in the model
                             optimizer.safetensors   moments, `<parameter>::<moment>`; loss scaling
                             state.json              RunState; size and CRC-32 of every file

It is written next to its place, flushed to the disk and renamed, so that a process killed at any
moment leaves the one before. There is no random state in it: order, augmentation, dropout and the
learning rate are functions of the seed and the step. Which checkpoints are kept is `retention`'s.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from video_llama.common.errors import CheckpointMismatch
from video_llama.runners.write_errors import explained

WEIGHTS_FILE = "trainable.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
PARTIAL_PREFIX = ".partial_"
CHECKSUM = "crc32"
BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        steps_per_epoch: optimizer steps of one epoch.
        global_batch_size: samples of one optimizer step over all ranks.
        best_metric: best value so far of what `run.valid.metric` names.
        best_step: step it was reached at.
        num_skipped: unusable samples met since `skips_since`, by data set.
        skips_since: step they are counted from, see `skips.counted_anew`.
        lengths: samples of every training set, of which the order is a function; empty in
            checkpoints of earlier versions.
        judge: what steps are compared with, see `bad_steps.StepJudge`.
        config: the resolved run file.
        validation_pending: the validation due at this step was left when the run was stopped.
        window: sums since the last line of numbers, see `metrics.Window`.
        num_ranks: processes that trained.
        written_by: versions, and the state of the source, see `provenance`.
    """

    step: int
    steps_per_epoch: int
    global_batch_size: int
    best_metric: float | None = None
    best_step: int | None = None
    num_skipped: dict[str, int] = field(default_factory=dict)
    skips_since: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    judge: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    validation_pending: bool = False
    window: dict[str, Any] = field(default_factory=dict)
    num_ranks: int = 1
    written_by: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(
    target: Path,
    *,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: RunState,
) -> None:
    """Write one checkpoint, whole or not at all.

    Where the same step of the same run is there already, and whole, its tensors are these; only
    what it says about the run is brought up to date.

    Args:
        target: its directory.
        weights: trained parameters by name.
        optimizer: optimizer moments by name.
        state: where the run stands.

    Raises:
        VideoLlamaError: it cannot be written, e.g. the disk is full; older ones are untouched.
    """
    partial = target.with_name(f"{PARTIAL_PREFIX}{target.name}")
    with _explain_write_error(target, partial):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        if find_damage(target, is_thorough=True) is None:
            _write_state(partial, state, files=_read_values(target)["files"])
            partial.replace(target / STATE_FILE)
            _flush(target)
            return
        partial.mkdir()
        files = {}
        for name, tensors in ((WEIGHTS_FILE, weights), (OPTIMIZER_FILE, optimizer)):
            path = partial / name
            save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, path)
            _flush(path)
            files[name] = {"size": path.stat().st_size, CHECKSUM: _checksum(path)}
        _write_state(partial / STATE_FILE, state, files=files)
        _flush(partial)
        _remove(target)
        partial.replace(target)
        _flush(target.parent)


def find_damage(checkpoint: Path, *, is_thorough: bool = False) -> str | None:
    """Say what is wrong with a checkpoint.

    Args:
        checkpoint: its directory, which need not exist.
        is_thorough: read the files whole, which finds every changed bit; otherwise only their
            sizes are compared, which finds what was copied in part.

    Returns:
        The first fault, None if there is none.
    """
    name = STATE_FILE
    try:
        values = _read_values(checkpoint)
        if values.pop(CHECKSUM) != _checksum_of(values):
            return f"{name}: not what was written"
        for name, file in values["files"].items():
            size = (checkpoint / name).stat().st_size
            if size != file["size"]:
                return f"{name}: {size} bytes of {file['size']}"
            if is_thorough and _checksum(checkpoint / name) != file[CHECKSUM]:
                return f"{name}: not what was written, its checksum differs"
    except FileNotFoundError:
        return f"{name}: missing"
    except KeyError as error:
        return f"{STATE_FILE}: has no {error}"
    except (OSError, ValueError) as error:
        return f"{name}: {error}"
    return None


def read_state(checkpoint: Path) -> RunState:
    """Read where a run stood.

    Raises:
        CheckpointMismatch: the directory is no complete checkpoint.
    """
    damage = find_damage(checkpoint)
    if damage is not None:
        raise CheckpointMismatch(
            f"{checkpoint}: not a complete checkpoint ({damage}); copy it again, or use "
            "run.resume_ckpt_path=auto, which takes the newest whole one"
        )
    values = _read_values(checkpoint)
    del values["files"], values[CHECKSUM]
    try:
        return RunState(**values)
    except TypeError as error:
        raise CheckpointMismatch(
            f"{checkpoint}/{STATE_FILE}: {error}; it was written by another version of this "
            f"package: {values.get('written_by')}"
        ) from error


def load_weights_file(checkpoint: Path, *, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Read the trained parameters of a checkpoint, strictly both ways.

    Args:
        checkpoint: its directory.
        shapes: of what the model trains, by name.

    Raises:
        CheckpointMismatch: names or shapes differ.
    """
    stored = load_file(checkpoint / WEIGHTS_FILE)
    faults = [f"{name}: only in the model" for name in shapes.keys() - stored.keys()]
    faults += [f"{name}: only in the checkpoint" for name in stored.keys() - shapes.keys()]
    faults += [
        f"{name}: {list(stored[name].shape)} in the checkpoint, {list(shape)} in the model"
        for name, shape in shapes.items()
        if name in stored and stored[name].shape != shape
    ]
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in sorted(faults)[:10])
        raise CheckpointMismatch(
            f"{checkpoint}: {len(faults)} trained parameters do not fit the model\n{listed}"
        )
    return stored


def load_optimizer_file(checkpoint: Path) -> dict[str, Tensor]:
    """Read the optimizer moments of a checkpoint."""
    return load_file(checkpoint / OPTIMIZER_FILE)


def _read_values(checkpoint: Path) -> dict[str, Any]:
    """Read state.json.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no JSON object.
    """
    values = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    return values


def _write_state(path: Path, state: RunState, *, files: Mapping[str, Mapping[str, int]]) -> None:
    """Write state.json; it bears its own checksum."""
    # As it will be read, e.g. lists for tuples.
    values = json.loads(json.dumps({**asdict(state), "files": files}))
    values[CHECKSUM] = _checksum_of(values)
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    _flush(path)


def _checksum_of(values: Mapping[str, Any]) -> int:
    """Return the CRC-32 of what JSON can hold."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _remove(path: Path) -> None:
    """Delete a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explain_write_error(target: Path, partial: Path) -> Iterator[None]:
    """Clean up after a failed write and say what to do."""
    advice = (
        "older checkpoints are untouched. Make room and start again with "
        "run.resume_ckpt_path=auto; run.keep_last=1 needs the least"
    )
    with explained(target, what="the checkpoint", advice=advice):
        try:
            yield
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                _remove(partial)
            raise
