"""Writes a whole model as one directory, tensor by tensor; which names it gets is a system's.

    weights of the parts' own files
      <- what checkpoints and bundles bring, by our names
      <- adapters, added to the weights they stand beside

Nothing is built in memory: tensors are read when they are written, in the dtype of their files, so
that what nobody trained comes out bit for bit.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_llama.common.errors import CheckpointMismatch, VideoLlamaError
from video_llama.common.key_map import KeyMap
from video_llama.common.schema import ModelConfig
from video_llama.common.shard_writer import (
    DTYPE_NAMES,
    TensorSpec,
    plan_shards,
    write_index,
    write_shard,
)
from video_llama.models.decoders.lora import ADAPTER_MARK, Lora
from video_llama.models.sources import ON_TOP_KEYS, open_source, sources
from video_llama.models.video_llm import VideoLLM

SHARD_BYTES = 2 * 2**30
CONFIG_FILE = "config.json"
DECODER = "decoder.model."
BASE_LAYER = ".base_layer."
"""Stands in the name of a weight that has an adapter beside it."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when it is written.

    Attributes:
        shape: of it.
        dtype: of it.
        read: gives it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Trained:
    """What checkpoints and bundles hold.

    Attributes:
        tensors: by our names, adapters apart.
        adapters: by our names.
    """

    tensors: Mapping[str, LazyTensor]
    adapters: Mapping[str, LazyTensor]


def lazy(state: Mapping[str, Tensor], name: str) -> LazyTensor:
    """Look at a tensor of a file without keeping it."""
    tensor = state[name]
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: state[name])


def trained_tensors(config: ModelConfig) -> Trained:
    """Return what is loaded on top of the parts' own files; the last file wins.

    Raises:
        CheckpointMismatch: a file cannot be read.
    """
    held: dict[str, LazyTensor] = {}
    for source in sources(config):
        if source.key not in ON_TOP_KEYS:
            continue
        opened = open_source(source, config)
        for name in opened.state:
            ours = opened.key_map.translate(name)
            if opened.key_map.dropped_because(name) is None and ours is not None:
                held[ours.replace(BASE_LAYER, ".")] = lazy(opened.state, name)
    adapters = {name: tensor for name, tensor in held.items() if ADAPTER_MARK in name}
    rest = {name: tensor for name, tensor in held.items() if name not in adapters}
    return Trained(rest, adapters)


def with_adapters(
    weights: Mapping[str, LazyTensor], adapters: Mapping[str, LazyTensor], *, lora: Lora | None
) -> dict[str, LazyTensor]:
    """Return a decoder's weights with its adapters added to them.

    Args:
        weights: by the decoder's own names.
        adapters: by our names.
        lora: their settings.

    Raises:
        CheckpointMismatch: an adapter has no weight, or half of it is missing.
    """
    merged = dict(weights)
    firsts = [name for name in adapters if ".lora_A." in name]
    if len(adapters) != 2 * len(firsts) or (firsts and lora is None):
        raise CheckpointMismatch(
            f"{len(adapters)} tensors of adapters, {len(firsts)} of them the first of a pair; "
            "expected pairs, and the model's decoder.lora"
        )
    for first in firsts:
        name = first.removeprefix(DECODER).partition(ADAPTER_MARK)[0] + ".weight"
        second = first.replace(".lora_A.", ".lora_B.")
        if name not in weights or second not in adapters or lora is None:
            raise CheckpointMismatch(f"{first}: there is no {name} or no {second} to go with it")
        merged[name] = _sum(
            weights[name], adapters[first], adapters[second], scale=lora.alpha / lora.rank
        )
    return merged


def _sum(weight: LazyTensor, first: LazyTensor, second: LazyTensor, *, scale: float) -> LazyTensor:
    def read() -> Tensor:
        delta = second.read().float() @ first.read().float() * scale
        return (weight.read().float() + delta).to(weight.dtype)

    return replace(weight, read=read)


def with_rows(tensor: LazyTensor, rows: int) -> LazyTensor:
    """Return a table of words with fewer rows, or with more that are the mean of its own."""
    if tensor.shape[0] == rows:
        return tensor

    def read() -> Tensor:
        table = tensor.read()
        if len(table) > rows:
            return table[:rows].clone()
        mean = table.float().mean(dim=0, keepdim=True).to(table.dtype)
        return torch.cat([table, mean.expand(rows - len(table), -1)])

    return replace(tensor, shape=(rows, *tensor.shape[1:]), read=read)


def require_whole(config: ModelConfig, tensors: Mapping[str, LazyTensor], *, names: KeyMap) -> None:
    """Let the model say that it could be filled.

    Args:
        config: of the model.
        tensors: that shall be written.
        names: from our names to theirs.

    Raises:
        CheckpointMismatch: a tensor is missing, or has other sides than the model's.
    """
    with torch.device("meta"):
        model = VideoLLM(config)
    lost = []
    for ours, tensor in model.state_dict().items():
        name = names.translate(ours.replace(BASE_LAYER, "."))
        if ADAPTER_MARK in ours:
            continue
        if name is None:
            lost.append(f"{ours} has no place in the layout")
        elif name not in tensors:
            lost.append(f"{ours} is in no file")
        # The first side may be longer in a file: more words, or positions to be resized.
        elif tensors[name].shape[1:] != tuple(tensor.shape)[1:]:
            lost.append(f"{ours} has another shape in its file")
    if lost:
        raise CheckpointMismatch(
            f"{len(lost)} tensors cannot be exported, first: {lost[0]}; name the weights of every "
            "part (`video-llama weights check` lists them), or keep a model of another wiring in "
            "its own folder (save_pretrained)"
        )


def write_directory(
    out: Path,
    tensors: Mapping[str, LazyTensor],
    *,
    config: Mapping[str, Any],
    copies: Sequence[Path],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a directory in Hugging Face's layout, whole or not under its name.

    Args:
        out: the directory; must not exist.
        tensors: by their names in it.
        config: its config.json.
        copies: files that are copied into it.
        shard_bytes: of the tensors of one file.

    Raises:
        CheckpointMismatch: a tensor is of a kind that is not written.
        VideoLlamaError: the place is taken, or the disk is full.
    """
    if out.exists():
        raise VideoLlamaError(f"{out}: exists already; choose another --out, or remove it")
    others = [name for name, tensor in tensors.items() if tensor.dtype not in DTYPE_NAMES]
    if others:
        raise CheckpointMismatch(
            f"'{others[0]}' holds {tensors[others[0]].dtype}; expected floating point weights"
        )
    specs = {name: TensorSpec(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    shards = plan_shards(specs, max_bytes=shard_bytes)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as partial:
            folder = Path(partial) / out.name
            folder.mkdir()
            _require_space(folder, needed=sum(shard.num_bytes for shard in shards))
            for shard in shards:
                write_shard(
                    folder,
                    shard,
                    read=lambda name: tensors[name].read(),
                    on_tensor=lambda name: None,
                )
            write_index(folder, shards)
            text = json.dumps(dict(config), indent=2) + "\n"
            (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
            for file in copies:
                shutil.copyfile(file, folder / file.name)
            folder.rename(out)
    except OSError as error:
        raise VideoLlamaError(
            f"{out}: cannot be written ({error.strerror or error}); make room, or name another "
            "place"
        ) from error


def _require_space(folder: Path, *, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise VideoLlamaError(
            f"{folder.name}: needs {needed / 2**30:.1f} GiB, and the disk has "
            f"{free / 2**30:.1f} GiB free; make room, or name another place"
        )
