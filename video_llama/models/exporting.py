"""Writes trained branches under their published names, or all of a model as one directory.

What is written is proved to load again before a byte goes to its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from video_llama.common.errors import CheckpointMismatch, ConfigError, VideoLlamaError
from video_llama.common.key_map import FileTable
from video_llama.common.logger import get_logger
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig
from video_llama.common.state_files import WRAPPER
from video_llama.common.weights import check_weights
from video_llama.models.bundle_export import export_bundle
from video_llama.models.directory_export import LazyTensor, trained_tensors
from video_llama.models.sources import CHECKPOINT_KEYS
from video_llama.models.video_llm import VideoLLM


def _write_released(state: Mapping[str, Tensor], path: Path) -> None:
    torch.save({WRAPPER: dict(state)}, path)


def _write_plain(state: Mapping[str, Tensor], path: Path) -> None:
    torch.save(dict(state), path)


def _write_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    save_file(dict(state), path)


FORMATS: dict[str, Callable[[Mapping[str, Tensor], Path], None]] = {
    "released": _write_released,
    "plain": _write_plain,
    "safetensors": _write_safetensors,
}
PICKLES = (".pth", ".pt", ".bin")
SUFFIXES = {"released": PICKLES, "plain": PICKLES, "safetensors": (".safetensors",)}
"""Readers go by these."""


BUNDLE_FORMAT = "bundle"
DIRECTORY_FORMATS = ("original", "hf", "transformers5", BUNDLE_FORMAT)
"""Of directories; which of them there are is up to the arch."""


def export_directory(
    config: ModelConfig, *, out: Path, file_format: str, is_lossy: bool = False
) -> list[str]:
    """Write a whole model, or its adapters, as a directory that other code reads.

    Args:
        config: the typed `model` section.
        out: the directory; must not exist.
        file_format: one of `DIRECTORY_FORMATS`.
        is_lossy: leave out what the layout has no place for.

    Returns:
        The names in the directory.

    Raises:
        ConfigError: the arch is not published as a directory.
        CheckpointMismatch: weights are missing, or have no place in the layout.
        VideoLlamaError: the directory cannot be written.
    """
    if file_format == BUNDLE_FORMAT:
        return export_bundle(config, out=out)
    if not registry.knows("directory_export", config.arch):
        known = ", ".join(registry.names("directory_export"))
        raise ConfigError(
            f"--format {file_format}: {config.arch} is not published as one directory (those that "
            f"are: {known}); take --format released"
        )
    export = registry.get("directory_export", config.arch)
    names: list[str] = export(config, out=out, layout=file_format, is_lossy=is_lossy)
    return names


def export_branches(
    config: ModelConfig, *, out: Path, file_format: str, branch: str | None = None
) -> list[str]:
    """Write what the checkpoints of a config hold as one file in the published layout.

    Args:
        config: with `ckpt`, `ckpt_2` or `lora_bundle`; a later one replaces what it brings again;
            adapters are left out.
        out: the file; an existing one is replaced once the new one is whole.
        file_format: one of `FORMATS`.
        branch: write this one only.

    Returns:
        The names in the file.

    Raises:
        CheckpointMismatch: a checkpoint cannot be read, holds what has no published name, or a
            part is not whole; or `out` does not end as its format does.
        VideoLlamaError: the file cannot be written.
    """
    if out.suffix not in SUFFIXES[file_format]:
        raise CheckpointMismatch(
            f"{out}: a file in the format '{file_format}' must end in "
            f"{' or '.join(SUFFIXES[file_format])}, or it would not be read as one"
        )
    table: FileTable = registry.get_release(config.arch)(config)[CHECKPOINT_KEYS[0]]
    trained = trained_tensors(config)
    ours = {
        name: tensor
        for name, tensor in trained.tensors.items()
        if branch is None or name.startswith(f"branches.{branch}.")
    }
    if trained.adapters:
        get_logger().warning(
            "%d tensors of adapters are left out, %s holds branches; --format bundle writes them",
            len(trained.adapters),
            out,
        )
    if not ours:
        raise CheckpointMismatch(_describe_nothing(config, branch))
    state = _published(ours, table)
    _prove(config, state, table=table, out=out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".partial_{os.getpid()}_{out.name}")
    try:
        FORMATS[file_format](state, partial)
        partial.replace(out)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise VideoLlamaError(
            f"{out}: cannot be written: {error}; make room, or name another place"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return list(state)


def _describe_nothing(config: ModelConfig, branch: str | None) -> str:
    """Say that the checkpoints hold nothing of a branch, and which branch has what it shares."""
    if branch is None:
        return "model.ckpt: holds nothing of a branch; name a checkpoint that does (--ckpt)"
    if branch not in config.branches:
        return (
            f"model.ckpt: holds nothing of the branch '{branch}'; the model has the branches "
            f"{', '.join(config.branches)}"
        )
    stages = config.branches[branch].stages.items()
    owners = [
        f"its stage '{name}' is that of the branch '{part.share.partition('.')[0]}' ({part.share})"
        for name, part in stages
        if part.share is not None
    ]
    way_out = f"{'; '.join(owners)}, name that one" if owners else "name a checkpoint that does"
    return f"model.ckpt: holds nothing of the branch '{branch}' itself; {way_out}"


def _published(ours: Mapping[str, LazyTensor], table: FileTable) -> dict[str, Tensor]:
    """Return tensors under their published names, in memory of their own.

    Raises:
        CheckpointMismatch: one has none.
    """
    inverse = table.key_map.invert()
    state, unnamed = {}, []
    for name, tensor in ours.items():
        published = inverse.translate(name)
        if published is None:
            unnamed.append(name)
        else:
            # A copy: a tensor mapped from a file would drag the whole file into the new one.
            state[published] = tensor.read().detach().clone().contiguous()
    if unnamed:
        raise CheckpointMismatch(
            f"{len(unnamed)} of {len(ours)} tensors have no name in the published layout, e.g. "
            f"{unnamed[0]}: this model is of another wiring; its run folder loads as model.ckpt"
        )
    return state


def _prove(
    config: ModelConfig, state: Mapping[str, Tensor], *, table: FileTable, out: Path
) -> None:
    """Let the model say that it could be filled from the file again.

    Raises:
        CheckpointMismatch: a part is not whole, or is of another size.
    """
    with torch.device("meta"):
        model = VideoLLM(config)
    table = replace(table, may_be_partial=True)
    parts = table.parts_in(state)
    check_weights(model, state, key_map=table.key_map, source=str(out), only=parts)
