"""What adapter_config.json says of a directory of adapters, as `model.decoder.lora`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from video_llama.common.errors import ConfigError
from video_llama.common.hub import local_path, way_to_get

KEY = "lora_bundle"
CONFIG_FILE = "adapter_config.json"
UNSUPPORTED = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
)
"""Settings of peft that change what adapters are, and that ours do not have."""


def take_lora_bundle(model: dict[str, Any]) -> dict[str, Any]:
    """Give the decoder of a `model` section the adapters that a bundle was made for.

    Args:
        model: the section with overrides, without its preset; keys of `decoder.lora` in it win.

    Returns:
        The section; as it was if it names no bundle.

    Raises:
        ConfigError: there is no such bundle, or its adapters are of another kind.
    """
    directory = model.get(KEY)
    if directory is None:
        return model
    decoder = model.get("decoder") or {}
    lora = {**read_lora(str(directory)), **(decoder.get("lora") or {})}
    return {**model, "decoder": {**decoder, "lora": lora}}


def read_lora(directory: str) -> dict[str, Any]:
    """Return the keys of `model.decoder.lora` for a bundle.

    Raises:
        ConfigError: there is none, or its adapters are of another kind.
    """
    folder = local_path(directory)
    file = folder / CONFIG_FILE
    if not file.is_file():
        what = f"no {CONFIG_FILE} in it" if folder.is_dir() else "no such folder"
        raise ConfigError(
            f"model.{KEY}: {directory}: {what}{way_to_get(directory)}; expected a directory of "
            "adapters as peft writes it"
        )
    found = _read(file)
    targets = found.get("target_modules")
    others = [f"{key}: {found[key]}" for key in UNSUPPORTED if found.get(key)]
    if found.get("peft_type", "LORA") != "LORA":
        others.append(f"peft_type: {found['peft_type']}")
    if found.get("bias", "none") != "none":
        others.append(f"bias: {found['bias']}")
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        others.append(f"target_modules: {targets}, expected names of layers")
    if others:
        raise ConfigError(
            f"model.{KEY}: {file}: {'; '.join(others)}; only plain adapters on named layers are "
            "known; merge these into their decoder with peft and name that as model.llama_model"
        )
    try:
        rank, alpha = int(found["r"]), float(found["lora_alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"model.{KEY}: {file}: no valid r and lora_alpha ({error})") from error
    # rsLoRA scales by alpha / sqrt(rank), plain adapters by alpha / rank.
    scale = math.sqrt(rank) if found.get("use_rslora") else 1.0
    return {
        "rank": rank,
        "alpha": alpha * scale,
        "dropout": float(found.get("lora_dropout") or 0.0),
        "targets": sorted({str(name).rpartition(".")[2] for name in targets or ()}),
    }


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"model.{KEY}: {file}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"model.{KEY}: {file}: holds no JSON object")
    return content
