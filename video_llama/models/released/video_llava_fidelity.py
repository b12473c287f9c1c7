"""Is it the Video-LLaVA that was published? Told from names, config.json and the run file.

The published video tower attends across time in every layer, and both towers have gelu. The port
to transformers has no temporal blocks, and its config.json leaves the activation to transformers,
whose default is quick_gelu; it is another model. What else makes one is told from the presets.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from video_llama.common.config import load_preset
from video_llama.common.errors import CheckpointMismatch
from video_llama.common.hub import local_path
from video_llama.common.registry import registry
from video_llama.common.schema import BranchConfig, ModelConfig, PartConfig
from video_llama.models.decoders.composite import read_config
from video_llama.models.fidelity import EXACT, Fidelity
from video_llama.models.released.video_llava import (
    DIRECTORY_KEYS,
    MODALITIES,
    ORIGINAL,
    TEMPORAL,
    TOWER_KEYS,
    WITH_TEMPORAL,
    WITHOUT_TEMPORAL,
    layout_of,
    names_of_directory,
)
from video_llama.models.sources import ON_TOP_KEYS

ACTIVATION = "gelu"
DEFAULT_ACTIVATION = "quick_gelu"
"""Of transformers, where a config.json says nothing."""

MISSING, OFF = "temporal block missing", "temporal block switched off"
TOLD_KEYS = ("hidden_act", "num_frames", "add_time_attn")
"""What a config.json may say of a tower."""

SIZES = ("width", "depth", "num_heads", "ffn_width", "image_size", "patch_size", "num_positions")
JUDGED_APART = ("activation", "temporal_attention")
"""By words of their own in the verdict."""


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
    if names:
        faults += [*_other_wiring(config, names), *_other_weights(config)]
    return Fidelity(", ".join(faults) or EXACT, notes=tuple(_contradictions(config)))


def _activation(part: PartConfig) -> str:
    """Return the activation of a tower, or what it is where it is no tower of this kind."""
    family = getattr(part.config, "traits", None)
    activation = getattr(part.config, "activation", None) or getattr(family, "activation", None)
    return activation or f"a tower of type {part.type}"


def _other_wiring(config: ModelConfig, names: Collection[str]) -> Iterator[str]:
    """Name branches, stages and keys that are not as published.

    What has no temporal blocks is held against the preset of the port too, which shows the towers
    other frames.
    """
    video = config.branches.get("video")
    if video is None:
        has_temporal = any(TEMPORAL in name for name in names)
    else:
        has_temporal = getattr(video.encoder.config, "temporal_attention", False)
    presets = [WITH_TEMPORAL] if has_temporal else [WITHOUT_TEMPORAL, WITH_TEMPORAL]
    for modality in MODALITIES:
        branch = config.branches.get(modality)
        if branch is None:
            yield f"no branch {modality}"
        else:
            published = [_published(preset)[modality] for preset in presets]
            yield from _other_tower(modality, branch.encoder, [p.encoder for p in published])
            yield from _other_stages(modality, branch.stages)
    yield from (f"branch {name} beside them" for name in config.branches if name not in MODALITIES)


@functools.cache
def _published(preset: str) -> Mapping[str, BranchConfig]:
    return load_preset("video_llava", preset).branches


def _other_tower(modality: str, part: PartConfig, published: Iterable[PartConfig]) -> Iterator[str]:
    if part.type not in (each.type for each in published):
        if getattr(part.config, "activation", None):
            yield f"a tower of type {part.type}"
        return
    facts = _facts(part.config)
    expected = [_facts(each.config) for each in published]
    for key, value in facts.items():
        if all(value != each[key] for each in expected):
            yield f"branches.{modality}.encoder.{key} {getattr(part.config, key)}"


def _facts(config: Any) -> dict[str, Any]:  # noqa: ANN401 - of either tower
    """Return what decides on a tower's output, sizes and dtype aside."""
    aside = (*SIZES, *JUDGED_APART, "dtype")
    names = (each.name for each in dataclasses.fields(config) if each.name not in aside)
    spec = config.media_spec()
    return {name: getattr(config, name) for name in names} | {
        "select_layer": config.num_layers - config.depth - 1,
        # Of the published towers each sees as many frames as it has positions for.
        "num_frames": config.num_frames == getattr(config, "num_positions", 1),
        "mean": spec.mean,
        "std": spec.std,
        "resize": spec.resize,
    }


def _other_stages(modality: str, stages: Mapping[str, PartConfig]) -> Iterator[str]:
    """Name what stands between a tower and the decoder but one projector as published."""
    projectors = [name for name, part in stages.items() if part.type == "mlp"]
    if not projectors:
        yield f"no projector in branch {modality}"
    for name, part in stages.items():
        where = f"branches.{modality}.stages.{name}"
        if name not in projectors[:1]:
            yield f"{where} of type {part.type}"
        elif part.share is None:
            given = part.config
            facts = {"depth": (given.depth, 2), "activation": (given.activation, ACTIVATION)}
            facts["hidden_width"] = (given.hidden_width or given.width, given.width)
            yield from (f"{where}.{key} {v}" for key, (v, wanted) in facts.items() if v != wanted)


def _other_weights(config: ModelConfig) -> Iterator[str]:
    """Say which weights are not those of the directory that the decoder is read from.

    Towers may be: those of LanguageBind were never trained further.
    """
    decoder = config.decoder.file
    if decoder is None or not names_of_directory(decoder):
        yield "decoder of another file"
    projectors = (
        part
        for branch in config.branches.values()
        for part in branch.stages.values()
        if part.type == "mlp" and part.share is None
    )
    given = {"ckpt": config.ckpt, "ckpt_2": config.ckpt_2, **config.paths}
    on_top = [key for key in ON_TOP_KEYS if given.get(key) is not None]
    files = {part.file for part in projectors if part.file is not None or not on_top}
    if any(decoder is None or not _is_same(file, decoder) for file in files):
        yield "projector of another file"
    if on_top:
        yield f"trained on top ({', '.join(on_top)})"


def _is_same(path: str | None, other: str) -> bool:
    return path is not None and local_path(path).resolve() == local_path(other).resolve()


@registry.register("directory_fidelity", "video_llava")
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
