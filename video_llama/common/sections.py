"""The sections of a run file, from merged containers to typed parts.

A part's own keys are those of the `Config` of the class its `type` names in the registry. Files
and layers are the business of `config`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, cast

from video_llama.common.errors import UnknownName
from video_llama.common.parsing import build, parse, parse_value, type_hints
from video_llama.common.registry import did_you_mean, registry
from video_llama.common.schema import BranchConfig, DatasetEntry, ModelConfig, PartConfig
from video_llama.common.sharing import SHARE, find_shares, with_shares

AMP_PRECISIONS = {True: "bf16", False: "fp32"}
"""What LAVIS's `run.amp` means where `run.precision` does not say it."""


def parse_model(
    node: Mapping[str, Any], *, preset_keys: set[str], problems: list[str]
) -> ModelConfig | None:
    """Turn a merged `model` section into a `ModelConfig`; mistakes are appended to `problems`.

    Args:
        node: the section.
        preset_keys: keys of the preset beside the fields of `ModelConfig`, e.g. `llama_model`.
        problems: every mistake is appended to it.

    Returns:
        None if anything was wrong, here or before.
    """
    own = {key: hint for key, hint in type_hints(ModelConfig).items() if key != "paths"}
    extra = {key: value for key, value in node.items() if key not in own}
    for key in extra:
        if key not in preset_keys:
            hint = did_you_mean(str(key), [*own, *preset_keys])
            problems.append(f"model.{key}: unknown key{hint}")
    values = {
        key: parse_value(own[key], value, where=f"model.{key}", problems=problems)
        for key, value in node.items()
        if key in own and key not in ("branches", "decoder")
    }
    shares = find_shares(node.get("branches"), problems=problems)
    nodes = dict(_entries(node.get("branches"), "model.branches", problems))
    branches = {
        name: _parse_branch(
            branch, where=f"model.branches.{name}", shared=shares.get(name, {}), problems=problems
        )
        for name, branch in nodes.items()
    }
    decoder = _parse_part("decoder", node.get("decoder"), where="model.decoder", problems=problems)
    problems += [
        f"model.{key}: missing" for key in ("arch", "model_type", "template") if key not in node
    ]
    if problems:
        return None
    return ModelConfig(
        branches=with_shares(cast("dict[str, BranchConfig]", branches), shares=shares, nodes=nodes),
        decoder=cast(PartConfig, decoder),
        paths=extra,
        **values,
    )


def model_section(config: ModelConfig) -> dict[str, Any]:
    """Write a typed `model` section as plain containers, which `parse_model` reads back as equal.

    Args:
        config: the typed section.

    Returns:
        The section, every key of every part in it, so that no preset is needed.
    """
    plain = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in ("branches", "decoder", "paths")
    }
    branches = {
        name: {
            "media": list(branch.media),
            "encoder": _part_section(branch.encoder),
            "stages": {stage: _part_section(part) for stage, part in branch.stages.items()},
        }
        for name, branch in config.branches.items()
    }
    return {**plain, **config.paths, "branches": branches, "decoder": _part_section(config.decoder)}


def translate_amp(run: object, problems: list[str]) -> object:
    """Write LAVIS's `run.amp` as `run.precision`; mistakes are appended to `problems`.

    Returns:
        The `run` section without `amp`.
    """
    if not isinstance(run, Mapping) or "amp" not in run:
        return run
    rest = {key: value for key, value in run.items() if key != "amp"}
    amp = run["amp"]
    if not isinstance(amp, bool):
        problems.append(f"run.amp: expected true or false, found {amp!r}")
        return rest
    precision = rest.setdefault("precision", AMP_PRECISIONS[amp])
    if amp == (precision == AMP_PRECISIONS[False]):
        problems.append(
            f"run.amp: {str(amp).lower()} contradicts run.precision: {precision}; leave amp out, "
            "precision says it all"
        )
    return rest


def parse_datasets(node: object, problems: list[str]) -> dict[str, DatasetEntry]:
    """Turn the `datasets` section into entries; one set to null is left out."""
    return {
        name: _parse_registered(
            "dataset", entry, into=DatasetEntry, where=f"datasets.{name}", problems=problems
        )
        for name, entry in _entries(node, "datasets", problems)
    }


def _parse_branch(
    node: object, *, where: str, shared: Collection[str], problems: list[str]
) -> BranchConfig | None:
    """Parse one branch; a stage set to null is left out, and so are those that are shared."""
    if not isinstance(node, Mapping):
        problems.append(f"{where}: expected a mapping with media, encoder and stages")
        return None
    known = [field.name for field in dataclasses.fields(BranchConfig)]
    problems += [
        f"{where}.{key}: unknown key{did_you_mean(str(key), known)}"
        for key in node
        if key not in known
    ]
    media = node.get("media")
    media = parse_value(
        type_hints(BranchConfig)["media"],
        [media] if isinstance(media, str) else media,
        where=f"{where}.media",
        problems=problems,
    )
    encoder = _parse_part(
        "encoder", node.get("encoder"), where=f"{where}.encoder", problems=problems
    )
    stages = {
        name: _parse_part("bridge", stage, where=f"{where}.stages.{name}", problems=problems)
        for name, stage in _entries(node.get("stages"), f"{where}.stages", problems)
        if name not in shared
    }
    if not stages and not shared:
        problems.append(f"{where}.stages: a branch needs at least one stage (a projection)")
    # What is None here has its problem in the list, and `parse_model` returns nothing.
    return BranchConfig(
        media=media,
        encoder=cast(PartConfig, encoder),
        stages=cast("dict[str, PartConfig]", stages),
    )


def _parse_part(kind: str, node: object, *, where: str, problems: list[str]) -> PartConfig | None:
    """Parse an encoder, a stage or the decoder."""
    return cast(
        "PartConfig | None",
        _parse_registered(kind, node, into=PartConfig, where=where, problems=problems),
    )


def _parse_registered(
    kind: str, node: object, *, into: type, where: str, problems: list[str]
) -> Any:
    """Build `into` with the `Config` of the registered class inside; None if anything is wrong."""
    if not isinstance(node, Mapping) or not isinstance(node.get("type"), str):
        problems.append(f"{where}.type: missing, expected the name of a {kind}")
        return None
    try:
        cls = registry.get(kind, node["type"])
    except UnknownName as error:
        problems.append(f"{where}.type: {error}")
        return None
    before = len(problems)
    if node.get(SHARE, "") is None:
        node = {key: value for key, value in node.items() if key != SHARE}
    generic = {key: hint for key, hint in type_hints(into).items() if key not in ("config", SHARE)}
    own = {key: value for key, value in node.items() if key not in generic}
    config = parse(cls.Config, own, where=where, problems=problems, also_known=generic)
    values = {
        key: parse_value(hint, node[key], where=f"{where}.{key}", problems=problems)
        for key, hint in generic.items()
        if key in node
    }
    if len(problems) > before:
        return None
    return build(into, {"config": config, **values}, where=where, problems=problems)


def _part_section(part: PartConfig) -> dict[str, Any]:
    """Write a part as plain containers."""
    if part.share is not None:
        return {SHARE: part.share}
    trainable = part.trainable if isinstance(part.trainable, bool) else list(part.trainable)
    own = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(part.config).items()
    }
    return {
        "type": part.type,
        "weights": part.weights,
        "trainable": trainable,
        "lr": part.lr,
        "gradient_checkpointing": part.gradient_checkpointing,
        **own,
    }


def _entries(node: object, where: str, problems: list[str]) -> list[tuple[str, Any]]:
    """Return the named entries of a mapping that are not null."""
    if node is None:
        return []
    if not isinstance(node, Mapping):
        problems.append(f"{where}: expected a mapping of names, found {node!r}")
        return []
    return [(str(name), entry) for name, entry in node.items() if entry is not None]
