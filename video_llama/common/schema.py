"""The typed shape of a run file, and the small parser that turns YAML into it.

The parser knows plain dataclasses only. It never stops at the first mistake: every problem is
appended to a list, each with the dotted key it is about, so that a user sees all of them at once.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, Union

from video_llama.common.registry import did_you_mean
from video_llama.common.types import MediaKind


@dataclass(frozen=True)
class PartConfig:
    """One part of a model: an encoder, a stage of a bridge, or the decoder.

    Attributes:
        type: registered name of the class.
        weights: file or directory the part is loaded from; None if a trainable part starts fresh
            or comes from `model.ckpt`.
        trainable: whether it learns; a list of patterns trains the matching parameters only.
        config: an instance of the class's own `Config`.
    """

    type: str
    config: Any
    weights: str | None = None
    trainable: bool | tuple[str, ...] = False


PART_KEYS = ("type", "weights", "trainable")


@dataclass(frozen=True)
class BranchConfig:
    """From pixels or sound to decoder-width tokens.

    Attributes:
        media: kinds of media items this branch turns into tokens.
        encoder: the network that sees or hears.
        stages: what stands between encoder and decoder, in order, by name.
    """

    media: tuple[MediaKind, ...]
    encoder: PartConfig
    stages: dict[str, PartConfig]


@dataclass(frozen=True)
class ModelConfig:
    """The `model` section, preset and run file merged.

    Attributes:
        arch: system whose published checkpoints are understood, see `models/released`.
        model_type: preset the section started from.
        branches: by name; one set to null in a run file is not built.
        decoder: the language model.
        template: name of the conversation template.
        tokenizer: directory of the tokenizer, None for the decoder's own.
        frame_times: tell the decoder at which seconds the frames were taken.
        max_txt_len: longest training sample in decoder positions, slots included.
        ckpt: trained branches to start from: a run's checkpoint or a published file.
        ckpt_2: a second one, read after `ckpt` (the audio branch, as published).
        compat: `released` gives the published training quirks, `corrected` does not.
        paths: the preset's own keys for files, e.g. `llama_model`.
    """

    arch: str
    model_type: str
    branches: dict[str, BranchConfig]
    decoder: PartConfig
    template: str
    tokenizer: str | None = None
    frame_times: bool = True
    max_txt_len: int = 512
    ckpt: str | None = None
    ckpt_2: str | None = None
    compat: Literal["corrected", "released"] = "corrected"
    paths: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetEntry:
    """One entry of the `datasets` section.

    Attributes:
        type: registered name of the reader.
        config: an instance of the reader's own `Config`.
        split: what the entry is for.
        sample_ratio: weight of the data set in the training mixture.
        augment: random_crop as published, or none (needed for the feature cache).
    """

    type: str
    config: Any
    split: Literal["train", "valid", "test"] = "train"
    sample_ratio: float = 1.0
    augment: Literal["none", "random_crop"] = "none"

    def __post_init__(self) -> None:
        if self.sample_ratio <= 0:
            raise ValueError(f"sample_ratio must be above 0, found {self.sample_ratio}")


ENTRY_KEYS = ("type", "split", "sample_ratio", "augment")


@dataclass(frozen=True)
class RunConfig:
    """The `run` section, in LAVIS's words.

    Attributes:
        task: registered name of what is done with the model.
        output_dir: everything the run writes goes below it.
        lr_sched: registered name of the schedule.
        init_lr: peak learning rate.
        min_lr: where the schedule ends.
        warmup_lr: where the warm-up starts.
        warmup_steps: optimizer steps of warm-up.
        weight_decay: of matrices; norms and biases have none.
        beta2: second moment decay of AdamW.
        max_epoch: epochs to train; an epoch is `iters_per_epoch` iterations.
        iters_per_epoch: forward passes per rank in an epoch.
        batch_size_train: samples per rank and iteration.
        batch_size_eval: samples per rank and evaluation batch.
        num_workers: processes per rank that read media; 0 reads in the main process.
        accum_grad_iters: iterations per optimizer step.
        grad_clip_norm: largest gradient norm, None for no clipping.
        seed: everything random is a function of it.
        device: auto, cpu, cuda, cuda:1, mps.
        amp: bfloat16 autocast.
        log_freq: optimizer steps between log lines.
        save_freq: epochs between checkpoints.
        keep_last: checkpoints kept besides the best.
        valid_freq: epochs between validations.
        resume_ckpt_path: auto continues the newest complete checkpoint of `output_dir`.
        feature_cache: directory for the outputs of the frozen encoders.
        max_skip_rate: share of unusable samples above which the run stops.
        engine: how ranks work together.
        probes: altered inputs an evaluation is repeated with, see `tasks.probes`.
        max_new_tokens: longest generated answer.
    """

    task: str
    output_dir: str
    lr_sched: str = "linear_warmup_cosine_lr"
    init_lr: float = 1e-4
    min_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.05
    beta2: float = 0.999
    max_epoch: int = 1
    iters_per_epoch: int = 1
    batch_size_train: int = 1
    batch_size_eval: int = 1
    num_workers: int = 0
    accum_grad_iters: int = 1
    grad_clip_norm: float | None = 1.0
    seed: int = 42
    device: str = "auto"
    amp: bool = False
    log_freq: int = 10
    save_freq: int = 1
    keep_last: int = 2
    valid_freq: int = 1
    resume_ckpt_path: str | None = None
    feature_cache: str | None = None
    max_skip_rate: float = 0.05
    engine: Literal["auto", "ddp"] = "auto"
    probes: tuple[str, ...] = ()
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        for name in ("max_epoch", "iters_per_epoch", "batch_size_train", "batch_size_eval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.accum_grad_iters < 1 or self.iters_per_epoch % self.accum_grad_iters:
            raise ValueError(
                f"iters_per_epoch ({self.iters_per_epoch}) must be a multiple of accum_grad_iters "
                f"({self.accum_grad_iters}): an epoch ends with an optimizer step"
            )
        if not 0 <= self.min_lr <= self.init_lr:
            raise ValueError(
                f"min_lr ({self.min_lr}) must lie between 0 and init_lr ({self.init_lr})"
            )
        if not 0 <= self.max_skip_rate <= 1:
            raise ValueError(f"max_skip_rate must lie in 0..1, found {self.max_skip_rate}")


@dataclass(frozen=True)
class Config:
    """A whole run file, resolved and typed.

    Attributes:
        model: what is built.
        datasets: what it reads, by name.
        run: what is done with it.
        imports: modules that register parts from outside this package.
        resolved: the same content as plain containers, as written to the run folder.
    """

    model: ModelConfig
    datasets: dict[str, DatasetEntry]
    run: RunConfig
    imports: tuple[str, ...] = ()
    resolved: dict[str, Any] = field(default_factory=dict)


def parse(cls: type, node: object, *, where: str, problems: list[str]) -> Any:
    """Build a dataclass from plain containers.

    Args:
        cls: the dataclass.
        node: a mapping with its fields.
        where: dotted key of `node`, for messages.
        problems: every mistake is appended to it.

    Returns:
        An instance of `cls`, or None if anything was wrong.
    """
    if not isinstance(node, Mapping):
        problems.append(f"{where}: expected a mapping, found {_show(node)}")
        return None
    before = len(problems)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = type_hints(cls)
    for key in node:
        if key not in fields:
            hint = did_you_mean(str(key), fields)
            problems.append(
                f"{where}.{key}: unknown key{hint} (known here: {', '.join(fields) or 'none'})"
            )
    values = {}
    for name, spec in fields.items():
        if name in node:
            values[name] = parse_value(
                hints[name], node[name], where=f"{where}.{name}", problems=problems
            )
        elif spec.default is MISSING and spec.default_factory is MISSING:
            problems.append(f"{where}.{name}: missing, expected {describe(hints[name])}")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None


def parse_value(hint: Any, node: object, *, where: str, problems: list[str]) -> Any:
    """Check one value against a type and convert it; mistakes are appended to `problems`."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return parse(hint, node, where=where, problems=problems)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _parse_union(hint, node, where=where, problems=problems)
    if origin is tuple or origin is list:
        return _parse_sequence(hint, node, where=where, problems=problems)
    if origin is dict and isinstance(node, Mapping):
        return {
            str(key): parse_value(args[1], value, where=f"{where}.{key}", problems=problems)
            for key, value in node.items()
        }
    if not _matches(hint, node):
        hint_text = did_you_mean(str(node), map(str, args)) if origin is Literal else ""
        problems.append(f"{where}: expected {describe(hint)}, found {_show(node)}{hint_text}")
        return None
    return float(typing.cast(float, node)) if hint is float else node


def describe(hint: Any) -> str:
    """Say in words what a type annotation accepts."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin in (tuple, list):
        return f"a list of {describe(args[0])}"
    if origin is dict:
        return "a mapping"
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    return "null" if hint is type(None) else names.get(hint, getattr(hint, "__name__", "a value"))


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Return a class's annotations as types."""
    return typing.get_type_hints(cls)


def _matches(hint: Any, node: object) -> bool:
    """Tell whether a plain value fits a plain type; a bool is no number, an int is a float."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return node in typing.get_args(hint)
    if hint is float:
        return isinstance(node, (int, float)) and not isinstance(node, bool)
    if hint is int:
        return isinstance(node, int) and not isinstance(node, bool)
    return isinstance(node, origin or hint)


def _parse_union(hint: Any, node: object, *, where: str, problems: list[str]) -> Any:
    """Take the first alternative that fits."""
    for alternative in typing.get_args(hint):
        attempt: list[str] = []
        value = parse_value(alternative, node, where=where, problems=attempt)
        if not attempt:
            return value
    problems.append(f"{where}: expected {describe(hint)}, found {_show(node)}")
    return None


def _parse_sequence(hint: Any, node: object, *, where: str, problems: list[str]) -> Any:
    """Parse a list, or a tuple of one type (`tuple[X, ...]`) or of a fixed length."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if not isinstance(node, (list, tuple)):
        problems.append(f"{where}: expected {describe(hint)}, found {_show(node)}")
        return None
    fixed = origin is tuple and Ellipsis not in args
    if fixed and len(node) != len(args):
        problems.append(f"{where}: expected {len(args)} values, found {len(node)}")
        return None
    return origin(
        parse_value(args[i if fixed else 0], value, where=f"{where}[{i}]", problems=problems)
        for i, value in enumerate(node)
    )


def _show(node: object) -> str:
    """Show a value as a user wrote it, shortened."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, (list, tuple)):
        return "a list"
    text = "null" if node is None else repr(node)
    return text if len(text) <= 60 else text[:57] + "..."
