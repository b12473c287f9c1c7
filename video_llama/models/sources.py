"""Which files of weights a model's config names, and which part of the model each one fills.

Files are read by the arch's table of published files (`models/released`); a part with a file of
its own is read by the part's own key map. Checkpoints of our runs carry our names and need none.
Nothing is loaded here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import Tensor

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.hub import local_path, way_to_get
from video_llama.common.registry import registry
from video_llama.common.schema import FRESH, ModelConfig, PartConfig
from video_llama.common.weights import Excuse, FileTable, KeyMap, LoadReport, read_state
from video_llama.models.lora_bundle import BUNDLE_KEY, adapter_table, bundle_files
from video_llama.models.released.recognise import explain

CHECKPOINT_KEYS = ("ckpt", "ckpt_2")
ON_TOP_KEYS = (BUNDLE_KEY, *CHECKPOINT_KEYS)
"""What is loaded after the parts' own files, and may replace what they brought."""

RUN_CHECKPOINTS = ("checkpoints/best", "checkpoints/last", "")
"""Where a run folder keeps what `ckpt` means, in this order; "" for the folder itself."""

WEIGHTS_FILE = "trainable.safetensors"
OWN_PREFIXES = ("branches.", "decoder.")


@dataclass(frozen=True)
class Source:
    """One file of weights.

    Attributes:
        key: of the `model` section, e.g. "vit_model" or "branches.video.encoder.weights".
        path: the file or directory.
        table: where its tensors go; None for a checkpoint, whose names decide, and for what learnt
            beside a bundle's adapters.
    """

    key: str
    path: Path
    table: FileTable | None = None

    @property
    def holds_adapters(self) -> bool:
        """Whether it is the file of adapters in a bundle."""
        return self.key == BUNDLE_KEY and self.table is not None

    @property
    def file(self) -> Path:
        """The file itself where a directory stands for it."""
        if self.table is None or not self.table.inside or not local_path(self.path).is_dir():
            return self.path
        return local_path(self.path) / self.table.inside


@dataclass(frozen=True)
class OpenSource:
    """A file that has been opened.

    Attributes:
        source: the file.
        state: its tensors, read when they are asked for.
        key_map: from its names to the model's.
        parts: prefixes of our names that it must fill.
    """

    source: Source
    state: Mapping[str, Tensor]
    key_map: KeyMap
    parts: tuple[str, ...]


def sources(config: ModelConfig) -> Iterator[Source]:
    """Yield every file that a config names, in the order of loading; the decoder's apart."""
    tables: Mapping[str, FileTable] = registry.get_release(config.arch)(config)
    roles = {path: role for role in tables if isinstance(path := config.paths.get(role), str)}
    configs = dict(named_parts(config))
    by_path: dict[str, list[str]] = {}
    for name, part in configs.items():
        if part.file is not None:
            by_path.setdefault(part.file, []).append(name)
    for path, names in by_path.items():
        role = roles.get(path, "")
        table = tables[role] if role else FileTable(KeyMap(), parts=())
        published = [name for name in names if f"{name}." in table.parts]
        if published:
            parts = tuple(f"{name}." for name in published)
            yield Source(role, Path(path), replace(table, parts=parts))
        for name in names:
            if name not in published:
                yield Source(f"{name}.weights", Path(path), _own_table(name, configs[name]))
    bundle = config.paths.get(BUNDLE_KEY)
    for file in bundle_files(bundle) if isinstance(bundle, str) else ():
        yield Source(BUNDLE_KEY, file.path, adapter_table(()) if file.holds_adapters else None)
    for key in CHECKPOINT_KEYS:
        path = getattr(config, key)
        if path is not None:
            yield Source(key, Path(path))


def open_source(source: Source, config: ModelConfig) -> OpenSource:
    """Open a file and say where its tensors go.

    Raises:
        CheckpointMismatch: it cannot be read, or is a checkpoint of the wrong branch.
    """
    if source.key == BUNDLE_KEY:
        state = read_state(source.path)
        published = registry.get_release(config.arch)(config)[CHECKPOINT_KEYS[0]]
        table = adapter_table(state) if source.holds_adapters else published
        return OpenSource(source, state, table.key_map, table.parts_in(state))
    if source.table is not None:
        source = replace(source, path=source.file)
        state = read_state(source.path)
        table = cast(FileTable, source.table)
        parts = table.parts_in(state)
        return OpenSource(source, state, _without_others(table.key_map, parts), parts)
    source = replace(source, path=find_checkpoint(source.path))
    state = read_state(source.path)
    if state and all(name.startswith(OWN_PREFIXES) for name in state):
        table = _run_table(config, state)
    else:
        table = registry.get_release(config.arch)(config)[source.key]
    drops = table.key_map.drops + _fresh(config, table.key_map, state)
    table = replace(table, key_map=replace(table.key_map, drops=drops))
    opened = OpenSource(source, state, table.key_map, table.parts_in(state))
    _refuse_other_branch(opened, table.meant_for)
    return opened


def describe_idle(opened: OpenSource, report: LoadReport) -> str:
    """Say that nothing of a file could be used, and why."""
    reasons = "; ".join(f"{n} keys: {reason}" for reason, n in report.dropped.items())
    return (
        f"{report.source}: nothing in it is for this model ({reasons or 'the file is empty'}); "
        f"take it out of model.{opened.source.key}, or name the file that was meant"
        f"{explain(opened.state, key=opened.source.key)}"
    )


def find_checkpoint(path: str | Path) -> Path:
    """Return the weight file that a `ckpt` means: a file, a checkpoint, or a run's best or last.

    Raises:
        CheckpointMismatch: there is none.
    """
    named, path = path, local_path(path)
    if path.is_file():
        return path
    for below in RUN_CHECKPOINTS:
        file = path / below / WEIGHTS_FILE
        if file.is_file():
            return file
    raise CheckpointMismatch(
        f"{named}: no checkpoint there; expected a weight file, a run's folder with "
        f"checkpoints/last, or a checkpoint with {WEIGHTS_FILE}{way_to_get(named)}"
    )


def named_parts(config: ModelConfig) -> Iterator[tuple[str, PartConfig]]:
    """Yield (name in the model, config) of every part of every branch, a shared one once."""
    for name, branch in config.branches.items():
        yield f"branches.{name}.encoder", branch.encoder
        for stage, part in branch.stages.items():
            if part.share is None:
                yield f"branches.{name}.stages.{stage}", part


def part_path(branch: str, part_name: str, part: PartConfig) -> str:
    """Return the name in the model of a part that a branch runs, be it its own or shared."""
    if part.share is None:
        return f"branches.{branch}.{part_name}"
    owner, _, stage = part.share.partition(".")
    return f"branches.{owner}.stages.{stage}"


def _own_table(name: str, part: PartConfig) -> FileTable:
    """Return the table of a part with a file of its own: its key map, or the part's own names."""
    key_map = part.config.key_map() if hasattr(part.config, "key_map") else KeyMap()
    return FileTable(key_map.under(ours=f"{name}."), parts=(f"{name}.",))


def _run_table(config: ModelConfig, names: Iterable[str]) -> FileTable:
    """Return the table of a run's checkpoint; a branch that is not built is left out."""
    held = {name.split(".")[1] for name in names if name.startswith("branches.")}
    drops = tuple(
        Excuse(f"branches.{name}.**", f"the model has no branch '{name}'")
        for name in sorted(held - set(config.branches))
    )
    # A run that trained some parameters of a part keeps just those, so each is a part of its own.
    return FileTable(KeyMap(drops=drops), parts=tuple(names), may_be_partial=True)


def _fresh(config: ModelConfig, key_map: KeyMap, names: Iterable[str]) -> tuple[Excuse, ...]:
    """Excuse what a checkpoint holds for parts that start anew."""
    prefixes = tuple(f"{name}." for name, part in named_parts(config) if part.weights == FRESH)
    return tuple(
        Excuse(name, "its part is declared fresh")
        for name in names
        if prefixes and (key_map.translate(name) or "").startswith(prefixes)
    )


def _without_others(key_map: KeyMap, parts: Iterable[str]) -> KeyMap:
    """Drop what the file holds for parts that are taken from elsewhere."""
    parts = tuple(parts)
    others = tuple(
        Excuse(published, "for a part that is taken from another file")
        for published, ours in key_map.renames
        if not ours.startswith(parts)
    )
    return replace(key_map, drops=key_map.drops + others)


def _refuse_other_branch(opened: OpenSource, meant_for: str) -> None:
    """Refuse a published checkpoint that stands in the other one's place.

    Raises:
        CheckpointMismatch: it fills parts, and none of the branch that its key is for.
    """
    if not opened.parts or any(part.startswith(meant_for) for part in opened.parts):
        return
    key = opened.source.key
    other = next(other for other in CHECKPOINT_KEYS if other != key)
    held, wanted = opened.parts[0].split(".")[1], meant_for.split(".")[1]
    raise CheckpointMismatch(
        f"model.{key}: {opened.source.path} holds the {held} branch only, and model.{key} is for "
        f"the {wanted} branch; put it into model.{other}, and the file of the {wanted} branch here"
    )
