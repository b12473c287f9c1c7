"""Writes adapters, and what learnt beside them, as a bundle that peft and published code read.

The layout is told in `lora_bundle`, which reads it. Nothing else of the model is written.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from video_llama.common.errors import CheckpointMismatch, ConfigError, VideoLlamaError
from video_llama.common.key_map import FileTable
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig
from video_llama.models.decoders.lora import Lora
from video_llama.models.directory_export import LazyTensor, trained_tensors
from video_llama.models.lora_bundle import (
    ADAPTER_FILES,
    CONFIG_FILE,
    OTHERS_FILE,
    PLAIN_NAMES,
)
from video_llama.models.sources import CHECKPOINT_KEYS

MODEL_CONFIG_FILE = "config.json"
OTHERS_PREFIX = "base_model.model."
"""Before the published names in the file of what learnt beside adapters."""


def export_bundle(config: ModelConfig, *, out: Path) -> list[str]:
    """Write the adapters of a config's checkpoints as a bundle.

    Args:
        config: the typed `model` section, with `decoder.lora`.
        out: the directory; must not exist.

    Returns:
        The names in it.

    Raises:
        ConfigError: the decoder has no adapters.
        CheckpointMismatch: no file has them, or something else that learnt has no published name.
        VideoLlamaError: the place is taken, or the disk is full.
    """
    lora: Lora | None = getattr(config.decoder.config, "lora", None)
    if lora is None:
        raise ConfigError("model.decoder.lora: there are no adapters to export")
    trained = trained_tensors(config)
    if not trained.adapters:
        raise CheckpointMismatch(
            "model.ckpt: no adapters in it; name a run that trained some (--ckpt)"
        )
    to_file, to_peft = _published(config), PLAIN_NAMES.invert()
    adapters = {_named(to_peft.translate(n), n): _read(t) for n, t in trained.adapters.items()}
    others = {
        OTHERS_PREFIX + _named(to_file.key_map.invert().translate(name), name): _read(tensor)
        for name, tensor in trained.tensors.items()
    }
    if out.exists():
        raise VideoLlamaError(f"{out}: exists already; choose another --out, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as partial:
            folder = Path(partial) / out.name
            folder.mkdir()
            save_file(adapters, folder / ADAPTER_FILES[0], metadata={"format": "pt"})
            if others:
                torch.save(others, folder / OTHERS_FILE)
            _write_json(folder / CONFIG_FILE, _settings(lora, base=config.decoder.file))
            if registry.knows("published_config", config.arch):
                found = registry.get("published_config", config.arch)(config)
                _write_json(folder / MODEL_CONFIG_FILE, found)
            folder.rename(out)
    except OSError as error:
        raise VideoLlamaError(
            f"{out}: cannot be written ({error.strerror or error}); make room, or name another "
            "place"
        ) from error
    return [*adapters, *others]


def _published(config: ModelConfig) -> FileTable:
    table: FileTable = registry.get_release(config.arch)(config)[CHECKPOINT_KEYS[0]]
    return table


def _named(published: str | None, ours: str) -> str:
    """Return a name of the published layout.

    Raises:
        CheckpointMismatch: there is none.
    """
    if published is None:
        raise CheckpointMismatch(
            f"model.ckpt: {ours} learnt beside the adapters and has no name in a bundle; the "
            "run's folder loads as model.ckpt"
        )
    return published


def _read(tensor: LazyTensor) -> Tensor:
    # A copy: a tensor mapped from a file would drag the whole file into the new one.
    return tensor.read().detach().clone().contiguous()


def _settings(lora: Lora, *, base: str | None) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "bias": "none",
        "inference_mode": True,
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(dict(content), indent=2) + "\n", encoding="utf-8")
