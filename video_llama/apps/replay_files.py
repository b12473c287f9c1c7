"""The batches of a step as files to look at.

batch_000.safetensors    tensors of the first iteration, named as in `common.types.Batch`
step.json                keys, texts' losses and what was read, as in the ledger
000_02_video_clip-7.png  what the encoder was shown of a sample: its frames, or its mels
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from video_llama.common.types import Batch, BranchSpec, VideoSpec
from video_llama.runners.ledger import Entry, SampleEntry
from video_llama.runners.step import StepRecord, finite_or_none


def save_batches(
    folder: Path,
    *,
    record: StepRecord,
    samples: Sequence[SampleEntry],
    recorded: Entry | None,
    specs: Mapping[str, BranchSpec],
) -> None:
    """Write a replayed step.

    Args:
        folder: made if it is not there.
        record: of the step.
        samples: what they are and cost now.
        recorded: what the run's ledger has of the step.
        specs: the model's branches by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, loaded in enumerate(record.loaded):
        tensors = _tensors(loaded.batch)
        save_file(tensors, folder / f"batch_{number:03d}.safetensors")
        for name, picture in _pictures(loaded.batch, specs).items():
            Image.fromarray(picture).save(folder / f"{number:03d}_{name}.png")
    page = {
        "step": record.step + 1,
        "loss": finite_or_none(record.loss),
        "grad_norm": finite_or_none(record.grad_norm),
        "samples": [dataclasses.asdict(sample) for sample in samples],
        "recorded": None if recorded is None else dataclasses.asdict(recorded),
    }
    (folder / "step.json").write_text(json.dumps(page, indent=1), encoding="utf-8")


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """Return all tensors of a batch by dotted name."""
    named = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    for branch, rows in batch.media.items():
        for field in dataclasses.fields(rows):
            named[f"media.{branch}.{field.name}"] = getattr(rows, field.name)
    return {k: v.detach().cpu().contiguous() for k, v in named.items() if isinstance(v, Tensor)}


def _pictures(batch: Batch, specs: Mapping[str, BranchSpec]) -> dict[str, NDArray[np.uint8]]:
    """Return uint8[H, T * W, 3] or [H, T * W] of every item that was not cached, by name."""
    pictures = {}
    for index, item in enumerate(batch.items):
        rows = batch.media[item.branch]
        found = (rows.raw_rows == item.row).nonzero().flatten().tolist()
        for place in found:
            steps = rows.raw[place][rows.raw_mask[place]].float().cpu()
            key = re.sub(r"[^\w.-]+", "_", batch.keys[item.sample])
            name = f"{index:02d}_{item.branch}_{key}"
            pictures[name] = _side_by_side(steps, specs[item.branch])
    return pictures


def _side_by_side(steps: Tensor, spec: BranchSpec) -> NDArray[np.uint8]:
    """Undo the normalisation of float[T, C, H, W] and put the steps in a row."""
    if isinstance(spec.spec, VideoSpec):
        mean = torch.tensor(spec.spec.mean).view(3, 1, 1)
        std = torch.tensor(spec.spec.std).view(3, 1, 1)
        values = steps * std + mean
    else:
        # Mels have no natural scale; low sounds are drawn at the bottom.
        values = (steps - steps.min()) / (steps.max() - steps.min()).clamp(min=1e-6)
        values = values.flip(2)
    row = torch.cat(list(values), dim=2)
    picture = (row.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return picture if picture.shape[2] == 3 else picture[:, :, 0]
