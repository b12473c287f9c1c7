"""Opens files of weights as a lazy mapping from name to tensor; never runs code from a file.

Reads safetensors, PyTorch's zip files (`.pth`, `.bin`, weights only) and directories in Hugging
Face's layout, whole or in shards. Does not know where a tensor belongs: see `weights`.
"""

from __future__ import annotations

import difflib
import json
import pickle
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.hub import local_path, way_to_get

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
WRAPPER = "model"
"""Key under which the published training code saves the weights of a checkpoint."""


def read_state(path: str | Path) -> Mapping[str, Tensor]:
    """Open a file or directory of weights; tensors are read, on the CPU, when they are asked for.

    Args:
        path: a `.safetensors`, `.pth`, `.pt` or `.bin` file, a directory in Hugging Face's layout,
            or a directory that holds one such file; or a name of the hub, see `hub`.

    Raises:
        CheckpointMismatch: nothing is there, or it is no file of weights.
    """
    named, path = path, local_path(path)
    if path.is_dir():
        return _read_directory(path)
    if not path.exists():
        hint = way_to_get(named) or _nearest(path)
        raise CheckpointMismatch(f"{named}: no such file{hint}")
    _refuse_text(path)
    return SafetensorsFile(path) if path.suffix == ".safetensors" else _read_torch(path)


def read_notes(path: str | Path) -> dict[str, Any]:
    """Return what the published training code saved beside the weights; empty for other files.

    Args:
        path: a file that `read_state` can open.
    """
    path = local_path(path)
    if not path.is_file() or path.suffix == ".safetensors":
        return {}
    content = _unpickle(path)
    if not isinstance(content, dict) or not isinstance(content.get(WRAPPER), dict):
        return {}
    return {key: value for key, value in content.items() if key != WRAPPER}


class SafetensorsFile(Mapping[str, Tensor]):
    """One safetensors file; a tensor is mapped into memory when it is asked for."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = cast(Any, safe_open(str(path), framework="pt"))
        except SafetensorError as error:
            raise CheckpointMismatch(
                f"{path}: not a complete safetensors file ({error}); download it again"
            ) from error
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class ShardedFiles(Mapping[str, Tensor]):
    """The files an index names; each is opened when one of its tensors is asked for first."""

    def __init__(self, index: Path) -> None:
        self._folder = index.parent
        self._file_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
        self._open: dict[str, Mapping[str, Tensor]] = {}
        lost = sorted(set(self._file_of.values()) - {file.name for file in self._folder.iterdir()})
        if lost:
            raise CheckpointMismatch(
                f"{self._folder}: {index.name} names files that are not there: {', '.join(lost)}; "
                "download them into the same folder"
            )

    def __getitem__(self, name: str) -> Tensor:
        file = self._file_of[name]
        if file not in self._open:
            self._open[file] = read_state(self._folder / file)
        return self._open[file][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def _read_directory(folder: Path) -> Mapping[str, Tensor]:
    for name in INDEX_FILES:
        if (folder / name).exists():
            return ShardedFiles(folder / name)
    for name in WHOLE_FILES:
        if (folder / name).exists():
            return read_state(folder / name)
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if len(files) == 1:
        return read_state(files[0])
    found = ", ".join(file.name for file in files) or "none"
    raise CheckpointMismatch(
        f"{folder}: expected {WHOLE_FILES[0]}, an index of shards or a single file of weights "
        f"(found: {found}); name the file itself"
    )


def _read_torch(path: Path) -> Mapping[str, Tensor]:
    try:
        content = _unpickle(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, IndexError, struct.error) as error:
        reason = str(error) or type(error).__name__
        if "Unsupported" in reason:
            raise CheckpointMismatch(
                f"{path}: holds more than tensors and plain containers, so reading it would run "
                "code from the file; save its weights as safetensors in a place where you trust it"
            ) from error
        raise CheckpointMismatch(
            f"{path}: not a complete file of weights ({reason.splitlines()[0]}); download it again"
        ) from error
    if isinstance(content, dict) and isinstance(content.get(WRAPPER), dict):
        content = content[WRAPPER]
    if not isinstance(content, dict):
        raise CheckpointMismatch(f"{path}: holds a {type(content).__name__}, not named tensors")
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointMismatch(
            f"{path}: not a table of named tensors; {len(others)} entries are something else, "
            f"e.g. '{others[0]}'"
        )
    return content


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    # Files older than PyTorch 1.6 are no zip archives and cannot be mapped into memory.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)


def _refuse_text(path: Path) -> None:
    """Recognise the two kinds of text that downloads leave in place of weights."""
    with path.open("rb") as file:
        head = file.read(256).lstrip().lower()
    if not head:
        raise CheckpointMismatch(f"{path}: the file is empty; download it again")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointMismatch(
            f"{path}: a web page, not weights (a link that asks for a login or a click was saved); "
            "download the file itself"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointMismatch(
            f"{path}: a Git LFS pointer, not weights; run `git lfs pull` in its repository"
        )


def _nearest(path: Path) -> str:
    """Say which names in the nearest existing folder look alike."""
    folder = path.parent
    if not folder.is_dir():
        return f" (the folder {folder} does not exist either)"
    names = [item.name for item in folder.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if near:
        return f"; nearest in {folder}: {', '.join(near)}"
    return f"; {folder} holds: {', '.join(sorted(names)[:8]) or 'nothing'}"
