"""Is it the Video-LLaVA that was published? Told from names, config.json and the run file.

The published video tower attends across time in every layer, and both towers have gelu. The port
to transformers has no temporal blocks, and its config.json leaves the activation to transformers,
whose default is quick_gelu; it is another model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.hub import local_path
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig, PartConfig
from video_llama.models.decoders.composite import read_config
from video_llama.models.fidelity import EXACT, Fidelity
from video_llama.models.released.video_llava import (
    DIRECTORY_KEYS,
    MODALITIES,
    ORIGINAL,
    TEMPORAL,
    TOWER_KEYS,
    layout_of,
    names_of_directory,
)

ACTIVATION = "gelu"
DEFAULT_ACTIVATION = "quick_gelu"
"""Of transformers, where a config.json says nothing."""

MISSING, OFF = "temporal block missing", "temporal block switched off"
TOLD_KEYS = ("hidden_act", "num_frames", "add_time_attn")
"""What a config.json may say of a tower."""


@registry.register("fidelity", "video_llava")
def fidelity(config: ModelConfig) -> Fidelity | None:
    """Judge a model of released weights, or one that was saved whole; None for any other.

    Args:
        config: the typed `model` section.
    """
    paths = dict.fromkeys(str(config.paths.get(key)) for key in DIRECTORY_KEYS)
    names = {name for path in paths for name in names_of_directory(path)}
    towers = {each: config.branches[each].encoder for each in MODALITIES if each in config.branches}
    if not names and (config.ckpt is None or any(part.file for part in towers.values())):
        return None
    faults = []
    video = towers.get("video")
    if video is not None and not getattr(video.config, "temporal_attention", False):
        faults.append(OFF if any(TEMPORAL in name for name in names) else MISSING)
    found = dict.fromkeys(_activation(part) for part in towers.values())
    faults += [activation for activation in found if activation != ACTIVATION]
    if not names and not faults:
        return None
    return Fidelity(", ".join(faults) or EXACT, notes=tuple(_contradictions(config)))


def _activation(part: PartConfig) -> str:
    """Return the activation of a tower, or what it is where it is no tower of this kind."""
    family = getattr(part.config, "traits", None)
    activation = getattr(part.config, "activation", None) or getattr(family, "activation", None)
    return activation or f"a tower of type {part.type}"


def fidelity_of_directory(directory: str | Path, names: Iterable[str]) -> Fidelity | None:
    """Judge a directory as it lies there; None if it is no whole Video-LLaVA.

    Args:
        directory: the directory.
        names: of its tensors.

    Raises:
        CheckpointMismatch: its config.json cannot be read.
    """
    held = set(names)
    layout = layout_of(held)
    if layout is None:
        return None
    told = _told(directory)
    activation = told.get("hidden_act")
    if activation is None:
        activation = ACTIVATION if layout == ORIGINAL else DEFAULT_ACTIVATION
    faults = [] if any(TEMPORAL in name for name in held) else [MISSING]
    faults += [activation] if activation != ACTIVATION else []
    note = ", ".join(f"{key} {value}" for key, value in told.items())
    text = f"config.json says of the towers: {note or 'nothing'}"
    return Fidelity(", ".join(faults) or EXACT, notes=(text,))


def _contradictions(config: ModelConfig) -> Iterator[str]:
    """Say where the towers are built otherwise than the config.json beside their weights says."""
    for modality in MODALITIES:
        branch = config.branches.get(modality)
        path = config.paths.get(TOWER_KEYS[modality])
        if branch is None or not isinstance(path, str):
            continue
        try:
            told = _told(local_path(path))
        except CheckpointMismatch:
            continue
        built = branch.encoder.config
        pairs = (("hidden_act", "activation"), ("num_frames", "num_positions"))
        for theirs, ours in pairs:
            value = getattr(built, ours, None)
            if theirs in told and value is not None and told[theirs] != value:
                yield (
                    f"model.branches.{modality}.encoder.{ours} is {value}, and {path}/config.json "
                    f"says {theirs} {told[theirs]}"
                )


def _told(directory: str | Path) -> Mapping[str, Any]:
    """Return what a directory's config.json says of its towers."""
    config = read_config(Path(directory)) or {}
    inner = config.get("vision_config")
    inner = inner if isinstance(inner, dict) else {}
    return {key: inner[key] for key in TOLD_KEYS if inner.get(key) is not None}
