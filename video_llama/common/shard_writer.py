"""Writes a directory of safetensors shards one tensor at a time, and goes on where it stopped.

The writer of the safetensors package wants all tensors of a file in memory. Where shapes are known
beforehand the header can go first and the tensors one by one, so that no more than one is held.
File format: https://huggingface.co/docs/safetensors. Where tensors come from is not known here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from video_llama.common.whole_files import PARTIAL_SUFFIX

WHOLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DTYPE_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor will be.

    Attributes:
        shape: its sides.
        dtype: one of `DTYPE_NAMES`.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Shard:
    """One file of a directory.

    Attributes:
        file: its name.
        header: the file's first bytes, up to the tensors.
        names: tensors in the order they are written.
        num_bytes: size of the whole file.
    """

    file: str
    header: bytes
    names: tuple[str, ...]
    num_bytes: int

    def is_done(self, folder: Path) -> bool:
        """Whether the folder holds this shard whole; it gets its name when it is."""
        path = folder / self.file
        return path.is_file() and path.stat().st_size == self.num_bytes


def plan_shards(specs: Mapping[str, TensorSpec], *, max_bytes: int) -> list[Shard]:
    """Spread tensors over files in their order, the names as Hugging Face gives them.

    Args:
        specs: every tensor by name.
        max_bytes: of the tensors of a file; one that is larger stands alone.
    """
    groups: list[dict[str, TensorSpec]] = []
    for name, spec in specs.items():
        size = sum(other.num_bytes for other in groups[-1].values()) if groups else max_bytes
        if size + spec.num_bytes > max_bytes:
            groups.append({})
        groups[-1][name] = spec
    return [
        _shard(
            group,
            file=f"model-{number:05d}-of-{len(groups):05d}.safetensors"
            if len(groups) > 1
            else WHOLE_FILE,
        )
        for number, group in enumerate(groups, start=1)
    ]


def write_shard(
    folder: Path, shard: Shard, *, read: Callable[[str], Tensor], on_tensor: Callable[[str], None]
) -> None:
    """Write one file, whole or not under its name.

    Args:
        folder: where it goes; exists.
        shard: of `plan_shards`.
        read: gives a tensor of the planned shape and dtype; held until it is written, not longer.
        on_tensor: called with the name behind every tensor.

    Raises:
        OSError: the disk is full or refuses.
    """
    partial = folder / (shard.file + PARTIAL_SUFFIX)
    with partial.open("wb") as file:
        file.write(shard.header)
        for name in shard.names:
            file.write(_bytes_of(read(name)))
            on_tensor(name)
        file.flush()
        os.fsync(file.fileno())
    assert partial.stat().st_size == shard.num_bytes, f"{shard.file}: not what was planned"
    partial.replace(folder / shard.file)


def write_index(folder: Path, shards: list[Shard]) -> None:
    """Write the table of which tensor is where; a single file needs none."""
    if len(shards) == 1:
        return
    content = {
        "metadata": {"total_size": sum(s.num_bytes - len(s.header) for s in shards)},
        "weight_map": {name: shard.file for shard in shards for name in shard.names},
    }
    (folder / INDEX_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _shard(specs: Mapping[str, TensorSpec], *, file: str) -> Shard:
    # The "format" is what transformers insists on.
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, spec in specs.items():
        start, end = end, end + spec.num_bytes
        entries[name] = {
            "dtype": DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Shard(file, header, tuple(specs), len(header) + end)


def _bytes_of(tensor: Tensor) -> memoryview:
    """Look at a tensor's bytes in place."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data
