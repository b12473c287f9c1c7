"""Builds a `VideoLLM` with its weights in place and proves that nothing was left to chance.

Every parameter comes from one named file, the last one that brings it, or belongs to a part that
starts from random values because nothing was named for it; each key of a file is used or excused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.schema import FRESH, ModelConfig
from video_llama.common.weights import KeyMap, LoadReport, check_weights, load_weights
from video_llama.models.branch import Branch, build_branches
from video_llama.models.decoders.lora import ADAPTER_MARK
from video_llama.models.decoders.low_resource import refuse_rounding
from video_llama.models.decoders.placement import Placement
from video_llama.models.lora_bundle import BUNDLE_KEY, refuse_gaps
from video_llama.models.released.recognise import explain
from video_llama.models.sources import (
    CHECKPOINT_KEYS,
    ON_TOP_KEYS,
    Source,
    describe_idle,
    named_parts,
    open_source,
    part_path,
    sources,
)
from video_llama.models.video_llm import VideoLLM


@dataclass
class Loaded:
    """A model with its weights.

    Attributes:
        model: on the CPU, or where it was placed.
        reports: one for every file that was read, in that order.
        origin: the file of every parameter that came from one; a later file replaces an earlier.
        replaced: what a later file replaced, as sentences.
        fresh: trainable parts that start from random weights.
    """

    model: VideoLLM
    reports: list[LoadReport] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    def add(self, report: LoadReport) -> None:
        """Note what a file filled."""
        before = [self.origin[name] for name in report.filled if name in self.origin]
        for other in dict.fromkeys(before):
            self.replaced.append(f"{before.count(other)} tensors of {other} by {report.source}")
        self.origin.update(dict.fromkeys(report.filled, report.source))
        self.reports.append(report)


class Step(Protocol):
    """`load_weights` or `check_weights`."""

    def __call__(
        self,
        module: nn.Module,
        state: Mapping[str, Tensor],
        *,
        key_map: KeyMap,
        source: str,
        only: tuple[str, ...],
    ) -> LoadReport:
        """Fill the module, or prove that it could be filled."""


def build_model(config: ModelConfig, *, placement: Placement | None = None) -> Loaded:
    """Build the model and load every weight file its config names.

    Args:
        config: the typed `model` section.
        placement: where the model goes; None for the CPU.

    Returns:
        The model in its place, and where its weights came from.

    Raises:
        ConfigError: a frozen part has no weights.
        CheckpointMismatch: a file and its part do not cover each other.
    """
    model = VideoLLM(config, placement=placement)
    loaded = Loaded(model)
    if model.decoder.load_report is not None:
        loaded.reports.append(model.decoder.load_report)
    for source in sources(config):
        report = _take(model, source, step=load_weights)
        loaded.add(report)
        if source.key in ON_TOP_KEYS:
            model.restored |= report.filled
    problems = unfilled_parts(model, filled=loaded.origin.keys())
    if problems:
        raise ConfigError(problems)
    loaded.fresh = _fresh_parts(model, filled=loaded.origin.keys())
    if placement is not None:
        is_placed = placement.is_for(config.low_resource)
        (model.branches if is_placed else model).to(placement.device)
    return loaded


def load_heads(config: ModelConfig) -> dict[str, Branch]:
    """Build the branches and load what is frozen before their frontiers; no decoder is loaded.

    Args:
        config: the typed `model` section.

    Returns:
        The branches on the CPU, by name. What is behind a frontier may be on the meta device.

    Raises:
        ConfigError: a frozen part before a frontier has no weights.
        CheckpointMismatch: a file and its part do not cover each other.
    """
    with torch.device("meta"):
        model = VideoLLM(config)
    heads = build_branches(config.branches)
    model.branches = nn.ModuleDict(heads)
    filled: set[str] = set()
    for source in sources(config):
        if source.key not in ON_TOP_KEYS:
            filled |= _take(model, source, step=load_weights).filled
    if _empty_heads(heads, filled=filled):
        # A checkpoint may bring frozen parts too; one that is not trained yet need not be there.
        for source in sources(config):
            if source.key in ON_TOP_KEYS:
                filled |= _take(model, source, step=load_weights).filled
    problems = [
        f"model.{name}: it is frozen and its weights come from no file; name one"
        for name in _empty_heads(heads, filled=filled)
    ]
    if problems:
        raise ConfigError(problems)
    return heads


def _empty_heads(heads: Mapping[str, Branch], *, filled: Collection[str]) -> list[str]:
    """Return the parts before a frontier with parameters that no file filled."""
    before = {
        part_path(name, part_name, part): module
        for name, head in heads.items()
        for part_name, module, part in list(head.parts())[: head.num_frozen]
    }
    return [
        name
        for name, module in before.items()
        if any(f"{name}.{key}" not in filled for key, _ in module.named_parameters())
    ]


def check_model(config: ModelConfig, *, missing: Collection[str] = ()) -> tuple[Loaded, list[str]]:
    """Prove what `build_model` would do, from names and shapes alone.

    Args:
        config: the typed `model` section.
        missing: paths that are known not to be there; what is left without weights is then no
            mistake.

    Returns:
        The model on the meta device with where its weights would come from, and everything that
        is wrong.
    """
    with torch.device("meta"):
        model = VideoLLM(config)
    loaded, problems = Loaded(model), []
    missing = {str(Path(path)) for path in missing}
    if config.decoder.file is not None and str(Path(config.decoder.file)) not in missing:
        try:
            loaded.reports.append(model.decoder.check(config.decoder.file))
        except CheckpointMismatch as error:
            problems.append(str(error))
    for source in sources(config):
        if str(source.path) in missing:
            continue
        try:
            loaded.add(_take(model, source, step=check_weights))
        except CheckpointMismatch as error:
            problems.append(str(error))
    if not problems and not missing:
        problems = unfilled_parts(model, filled=loaded.origin.keys())
    if not problems and not missing:
        try:
            loaded.fresh = _fresh_parts(model, filled=loaded.origin.keys())
        except CheckpointMismatch as error:
            problems.append(str(error))
    return loaded, problems


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
    if filled is None and (_has_checkpoint(config) or config.paths.get(BUNDLE_KEY)):
        return []
    problems = []
    for name, part in [*named_parts(config), ("decoder", config.decoder)]:
        parameters = _parameters(model, name)
        unfilled = [
            parameter
            for parameter, tensor in parameters.items()
            if not tensor.requires_grad and parameter not in (filled or ())
        ]
        adapters = [parameter for parameter in unfilled if ADAPTER_MARK in parameter]
        if adapters:
            problems.append(
                f"model.{name}.lora: {len(adapters)} parameters of adapters are frozen and come "
                'from no file, so they would do nothing; set trainable: ["*lora_*"], name the '
                "checkpoint that has them, or set lora: null"
            )
        num_others = len(unfilled) - len(adapters)
        if part.file is None and num_others:
            problems.append(
                f"model.{name}: {num_others} of {len(parameters)} parameters are frozen, and "
                "neither `weights` nor model.ckpt fills them; name a file, or set `trainable: true`"
            )
    return problems


def _take(model: VideoLLM, source: Source, *, step: Step) -> LoadReport:
    """Load or check one file.

    Raises:
        CheckpointMismatch: the file and its parts do not cover each other, or it fills nothing.
    """
    opened = open_source(source, model.config)
    path = str(opened.source.path)
    if model.config.low_resource != "none":
        names = (opened.key_map.translate(key) or "" for key in opened.state)
        ours = (name.removeprefix("decoder.") for name in names)
        refuse_rounding(model.decoder.model, ours, source=path)
    try:
        report = step(model, opened.state, key_map=opened.key_map, source=path, only=opened.parts)
    except CheckpointMismatch as error:
        hint = explain(opened.state, key=source.key)
        raise CheckpointMismatch(f"{error}{hint}") from error
    if not report.matched:
        raise CheckpointMismatch(describe_idle(opened, report))
    if source.holds_adapters:
        refuse_gaps(model, report.filled, source=source.path)
    return report


def _fresh_parts(model: VideoLLM, *, filled: Collection[str]) -> list[str]:
    """Return the parts that learn and start from random values.

    Raises:
        CheckpointMismatch: a checkpoint was named and leaves such a part, or a piece of one,
            without weights, and the part is not declared fresh.
    """
    fresh, problems = [], []
    for name, part in named_parts(model.config):
        parameters = _parameters(model, name)
        unfilled = [parameter for parameter in parameters if parameter not in filled]
        if part.file is not None or not unfilled:
            continue
        fresh.append(name)
        if part.weights != FRESH and _has_checkpoint(model.config):
            problems.append(
                f"model.{name}: {len(unfilled)} of {len(parameters)} parameters are in no file "
                f"(first: {unfilled[0]}); name the checkpoint that has them, or declare the part "
                f"new: model.{name}.weights={FRESH}"
            )
    if problems:
        raise CheckpointMismatch("\n".join(problems))
    return fresh


def _has_checkpoint(config: ModelConfig) -> bool:
    return any(getattr(config, key) is not None for key in CHECKPOINT_KEYS)


def _parameters(model: VideoLLM, part: str) -> dict[str, Tensor]:
    """Return a part's parameters by their names in the model."""
    module = model.get_submodule(part)
    return {f"{part}.{name}": parameter for name, parameter in module.named_parameters()}
