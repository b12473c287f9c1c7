"""Builds a `VideoLLM` with its weights in place and says where every part's weights came from.

Files are read by the arch's table of published files (`models/released`); a part with a file of
its own is read by the part's own key map. Checkpoints of our runs carry our names and need none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig, PartConfig
from video_llama.common.weights import (
    Excuse,
    FileTable,
    KeyMap,
    LoadReport,
    load_weights,
    read_state,
)
from video_llama.models.video_llm import VideoLLM

CHECKPOINT_KEYS = ("ckpt", "ckpt_2")
RUN_CHECKPOINTS = ("checkpoints/best", "checkpoints/last", "")
"""Where a run folder keeps what `ckpt` means, in this order; "" for the folder itself."""

WEIGHTS_FILE = "trainable.safetensors"


@dataclass
class Loaded:
    """A model with its weights.

    Attributes:
        model: on the CPU.
        reports: one for every file that was read.
        fresh: trainable parts that start from random weights.
    """

    model: VideoLLM
    reports: list[LoadReport] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)


def build_model(config: ModelConfig) -> Loaded:
    """Build the model and load every weight file its config names.

    Args:
        config: the typed `model` section.

    Returns:
        The model on the CPU, and where its weights came from.

    Raises:
        ConfigError: a frozen part has no weights.
        CheckpointMismatch: a file and its part do not cover each other.
    """
    model = VideoLLM(config)
    loaded = Loaded(model)
    if model.decoder.load_report is not None:
        loaded.reports.append(model.decoder.load_report)
    for path, table in _files(config):
        state = read_state(path)
        parts = table.parts_in(state)
        key_map = _without_others(table.key_map, parts)
        report = load_weights(model, state, key_map=key_map, source=str(path), only=parts)
        loaded.reports.append(report)
    for key in CHECKPOINT_KEYS:
        path = getattr(config, key)
        if path is not None:
            loaded.reports.append(_load_checkpoint(model, config, find_checkpoint(path)))
    filled = frozenset().union(*(report.filled for report in loaded.reports))
    problems = unfilled_parts(model, filled=filled)
    if problems:
        raise ConfigError(problems)
    loaded.fresh = [
        name
        for name, part in named_parts(config)
        if part.weights is None and not filled.issuperset(_parameters(model, name))
    ]
    return loaded


def unfilled_parts(model: VideoLLM, *, filled: Collection[str] | None = None) -> list[str]:
    """Say which parameters that do not learn come from no file.

    Args:
        model: may be on the meta device.
        filled: names of parameters that checkpoints filled; None before any was read, then parts
            that one may fill are not judged.

    Returns:
        One sentence for every such part, opening with its dotted key.
    """
    config = model.config
    if filled is None and any(getattr(config, key) is not None for key in CHECKPOINT_KEYS):
        return []
    problems = []
    for name, part in [*named_parts(config), ("decoder", config.decoder)]:
        parameters = _parameters(model, name)
        unfilled = [
            parameter
            for parameter, tensor in parameters.items()
            if not tensor.requires_grad and parameter not in (filled or ())
        ]
        if part.weights is None and unfilled:
            problems.append(
                f"model.{name}: {len(unfilled)} of {len(parameters)} parameters are frozen, and "
                "neither `weights` nor model.ckpt fills them; name a file, or set `trainable: true`"
            )
    return problems


def find_checkpoint(path: str | Path) -> Path:
    """Return the weight file that a `ckpt` means: a file, a checkpoint, or a run's best or last.

    Raises:
        CheckpointMismatch: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for below in RUN_CHECKPOINTS:
        file = path / below / WEIGHTS_FILE
        if file.is_file():
            return file
    raise CheckpointMismatch(
        f"{path}: no checkpoint there; expected a weight file, a run's folder with "
        f"checkpoints/last, or a checkpoint with {WEIGHTS_FILE}"
    )


def named_parts(config: ModelConfig) -> Iterator[tuple[str, PartConfig]]:
    """Yield (name in the model, config) of every part of every branch."""
    for name, branch in config.branches.items():
        yield f"branches.{name}.encoder", branch.encoder
        for stage, part in branch.stages.items():
            yield f"branches.{name}.stages.{stage}", part


def _files(config: ModelConfig) -> Iterator[tuple[Path, FileTable]]:
    """Yield every file that a part names, with the table that reads it."""
    tables: Mapping[str, FileTable] = registry.get_release(config.arch)(config)
    roles = {path: role for role in tables if isinstance(path := config.paths.get(role), str)}
    configs = dict(named_parts(config))
    by_path: dict[str, list[str]] = {}
    for name, part in configs.items():
        if part.weights is not None:
            by_path.setdefault(part.weights, []).append(name)
    for path, names in by_path.items():
        table = tables[roles[path]] if path in roles else FileTable(KeyMap(), parts=())
        published = [name for name in names if f"{name}." in table.parts]
        if published:
            parts = tuple(f"{name}." for name in published)
            yield _find_weights(path), replace(table, parts=parts)
        for name in names:
            if name not in published:
                yield Path(path), _own_table(name, configs[name])


def _find_weights(path: str) -> Path:
    """Return a role's file; ImageBind's may be named by its directory, as published."""
    inside = Path(path) / "imagebind_huge.pth"
    return inside if inside.is_file() else Path(path)


def _own_table(name: str, part: PartConfig) -> FileTable:
    """Return the table of a part with a file of its own: its key map, or the part's own names."""
    key_map = part.config.key_map() if hasattr(part.config, "key_map") else KeyMap()
    return FileTable(key_map.under(ours=f"{name}."), parts=(f"{name}.",))


def _without_others(key_map: KeyMap, parts: Iterable[str]) -> KeyMap:
    """Drop what the file holds for parts that are taken from elsewhere."""
    parts = tuple(parts)
    others = tuple(
        Excuse(published, "for a part that is taken from another file")
        for published, ours in key_map.renames
        if not ours.startswith(parts)
    )
    return replace(key_map, drops=key_map.drops + others)


def _load_checkpoint(model: VideoLLM, config: ModelConfig, path: Path) -> LoadReport:
    """Read a run's checkpoint or a published one."""
    state = read_state(path)
    if all(name.startswith(("branches.", "decoder.")) for name in state):
        return _load_own(model, state, path)
    table = registry.get_release(config.arch)(config)["ckpt"]
    return load_weights(
        model, state, key_map=table.key_map, source=str(path), only=table.parts_in(state)
    )


def _load_own(model: VideoLLM, state: Mapping[str, Tensor], path: Path) -> LoadReport:
    """Read a checkpoint with our own names; a branch that is not built is left out."""
    branches = {name.split(".")[1] for name in state if name.startswith("branches.")}
    drops = tuple(
        Excuse(f"branches.{name}.**", f"the model has no branch '{name}'")
        for name in sorted(branches - set(model.config.branches))
    )
    key_map = KeyMap(drops=drops)
    used = [name for name in state if key_map.dropped_because(name) is None]
    return load_weights(model, state, key_map=key_map, source=str(path), only=used)


def _parameters(model: VideoLLM, part: str) -> dict[str, Tensor]:
    """Return a part's parameters by their names in the model."""
    module = model.get_submodule(part)
    return {f"{part}.{name}": parameter for name, parameter in module.named_parameters()}
