"""The functions that a user of LAVIS tries first, under their published names and signatures.

    model, vis_processors, txt_processors = load_model_and_preprocess("video_llama", "toy", True)

They are thin: presets, run files and readers do the work. Unlike LAVIS, nothing is downloaded
(`video-llama weights get` does that), and a mistake is an error rather than None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from video_llama.apps.chat import TOY_RUN_FILE
from video_llama.apps.checks import missing_weights
from video_llama.apps.devices import pick_device
from video_llama.apps.vocabulary import has_tokenizer, keep_to_words, text_settings
from video_llama.common.config import SHIPPED_RUN_FILES, list_presets, load, load_preset
from video_llama.common.errors import ConfigError
from video_llama.common.registry import registry
from video_llama.common.schema import ModelConfig, PartConfig, RunConfig
from video_llama.common.types import VideoSpec
from video_llama.common.yaml_files import read_yaml
from video_llama.datasets.base import DatasetReader
from video_llama.models.video_llm import VideoLLM

Processors = dict[str, Any]
"""Callables by `train` and `eval`."""

WITH_WEIGHTS = {("video_llama", "toy"): TOY_RUN_FILE}
"""Presets whose trained weights come with the package, and the run file that names them."""

IMAGES, VIDEOS = "images", "videos"
KINDS = {IMAGES: "image", VIDEOS: "video"}
"""LAVIS's `data_type`, and our kinds of media."""


def load_model(
    name: str,
    model_type: str,
    is_eval: bool = False,
    device: str | torch.device = "cpu",
    checkpoint: str | None = None,
    *,
    options: Sequence[str] = (),
) -> VideoLLM:
    """Build a preset's model and load its weights.

    Args:
        name: arch, a first column of `model_zoo`.
        model_type: preset, a second column of `model_zoo`.
        is_eval: put it into evaluation mode.
        device: where to; on the CPU all parts compute in float32, as in LAVIS.
        checkpoint: trained branches, as `model.ckpt`: a run's folder, a published file, a name of
            the hub. None takes those that come with the preset, if any do.
        options: overrides, e.g. `model.llama_model=DIR`.

    Raises:
        ConfigError: a name is unknown, or files are missing; all of them are named.
        CheckpointMismatch: a file does not fit its part.
    """
    config = _model_config(name, model_type, checkpoint=checkpoint, options=options)
    where = pick_device(RunConfig(task="load_model", output_dir="", device=str(device)))
    if where == "cpu":
        config = _in_float32(config)
    problems = [str(file) for file in missing_weights(config)]
    if problems:
        raise ConfigError(problems)
    model: VideoLLM = registry.get_model_class(name).from_config(config).to(where)
    if has_tokenizer(model.config):
        keep_to_words(model, text_settings(model.config))
    return model.train(not is_eval)


def load_model_and_preprocess(
    name: str,
    model_type: str,
    is_eval: bool = False,
    device: str | torch.device = "cpu",
    checkpoint: str | None = None,
    *,
    options: Sequence[str] = (),
) -> tuple[VideoLLM, Processors, Processors]:
    """Load a model with the processors that fit it.

    Args:
        name: see `load_model`, also for the others.
        model_type: preset.
        is_eval: put the model into evaluation mode.
        device: where to.
        checkpoint: trained branches.
        options: overrides.

    Returns:
        The model, processors of clips and processors of captions, both by `train` and `eval`.
        Without a branch that takes clips there are no processors of clips.
    """
    model = load_model(name, model_type, is_eval, device, checkpoint, options=options)
    specs = [spec.spec for spec in model.branch_specs().values() if "video" in spec.media]
    vis: dict[str, Any] = {}
    if specs and isinstance(specs[0], VideoSpec):
        keys = {
            "image_size": specs[0].image_size,
            "n_frms": specs[0].num_frames,
            "mean": list(specs[0].mean),
            "std": list(specs[0].std),
            "resize": specs[0].resize,
            "filter": specs[0].filter,
        }
        vis = {
            "train": {"name": "alpro_video_train", **keys},
            "eval": {
                "name": "alpro_video_eval",
                "frame_policy": specs[0].frame_policy,
                **keys,
            },
        }
    caption = {"name": "blip_caption"}
    processors = load_preprocess(
        {"vis_processor": vis, "text_processor": {"train": caption, "eval": caption}}
    )
    return model, *processors


def load_preprocess(config: Mapping[str, Any]) -> tuple[Processors, Processors]:
    """Build the processors of a LAVIS `preprocess` section.

    Args:
        config: `vis_processor` and `text_processor`, each with `train` and `eval`, each of these
            with a `name` and the processor's own keys.

    Returns:
        Processors of pictures or clips, and of captions.
    """
    vis, text = (
        {
            split: load_processor(node["name"], node)
            for split, node in (config.get(key) or {}).items()
        }
        for key in ("vis_processor", "text_processor")
    )
    return vis, text


def load_processor(name: str, cfg: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """Build a processor by its published name.

    Args:
        name: e.g. `alpro_video_eval`.
        cfg: its keys; None for the published defaults.
    """
    return registry.get_processor_class(name).from_config(cfg)


def load_dataset(
    name: str,
    cfg_path: str | None = None,
    vis_path: str | None = None,
    data_type: str | None = None,
) -> dict[str, DatasetReader]:
    """Open a data set of a run file.

    Args:
        name: of an entry, or of its reader.
        cfg_path: run file; None takes the first shipped one that has such an entry.
        vis_path: folder of the pictures or clips, in place of the entry's.
        data_type: `images` or `videos`; refused if the data set holds others.

    Returns:
        Readers by split; `len(reader)`, `reader.sample(0)`.

    Raises:
        ConfigError: there is no such entry, or its files are missing.
    """
    path = cfg_path or _shipped_run_file(name)
    entries = load(path).datasets
    ours = registry.get_dataset_class(name) if name not in entries else None
    chosen = {
        key: entry
        for key, entry in entries.items()
        if key == name or (ours is not None and registry.get_dataset_class(entry.type) is ours)
    }
    if not chosen:
        raise ConfigError(f"datasets.{name}: not in {path} (there: {', '.join(entries) or 'none'})")
    readers: dict[str, DatasetReader] = {}
    problems: list[str] = []
    for key, entry in chosen.items():
        config = replace(entry.config, media=vis_path) if vis_path else entry.config
        reader = registry.get_dataset_class(entry.type)(config, name=key)
        problems += reader.missing() or _other_kinds(reader, data_type=data_type)
        if entry.split in readers:
            both = f"{readers[entry.split].name} and {key}"
            problems.append(f"datasets: {both} are both {entry.split}; name one of them")
        readers[entry.split] = reader
    if problems:
        raise ConfigError(problems, where=str(path))
    return readers


@dataclass(frozen=True)
class Zoo:
    """A printable table of names.

    Attributes:
        heads: of the two columns.
        rows: name, and what belongs to it.
    """

    heads: tuple[str, str]
    rows: Mapping[str, Sequence[str]]

    def get_names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self.rows)

    def __iter__(self) -> Iterator[tuple[str, Sequence[str]]]:
        return iter(self.rows.items())

    def __len__(self) -> int:
        return sum(len(items) for items in self.rows.values())

    def __str__(self) -> str:
        width = max(map(len, [*self.rows, self.heads[0]])) + 2
        lines = [f"{self.heads[0]:<{width}}{self.heads[1]}"]
        lines += [f"{name:<{width}}{', '.join(items)}" for name, items in self.rows.items()]
        rule = "=" * max(map(len, lines))
        return "\n".join([rule, lines[0], rule, *lines[1:]])


def model_zoo() -> Zoo:
    """Return the archs with their presets."""
    return Zoo(("Architecture", "Types"), list_presets())


def dataset_zoo() -> Zoo:
    """Return the readers with the first line of what they read."""
    readers = {name: registry.get_dataset_class(name) for name in registry.list_datasets()}
    return Zoo(
        ("Reader", "Reads"),
        {name: [(reader.__doc__ or "").splitlines()[0]] for name, reader in readers.items()},
    )


def _model_config(
    name: str, model_type: str, *, checkpoint: str | None, options: Sequence[str]
) -> ModelConfig:
    """Return the config of a preset, with trained weights where some are known."""
    run_file = WITH_WEIGHTS.get((name, model_type))
    if checkpoint is None and run_file is not None:
        return load(run_file, options=options).model
    config = load_preset(name, model_type, options=options)
    return config if checkpoint is None else replace(config, ckpt=checkpoint)


def _in_float32(config: ModelConfig) -> ModelConfig:
    """Let every part that has a choice compute in float32."""

    def cast(part: PartConfig) -> PartConfig:
        if not hasattr(part.config, "dtype"):
            return part
        return replace(part, config=replace(part.config, dtype="float32"))

    branches = {
        name: replace(
            branch,
            encoder=cast(branch.encoder),
            stages={stage: cast(part) for stage, part in branch.stages.items()},
        )
        for name, branch in config.branches.items()
    }
    return replace(config, branches=branches, decoder=cast(config.decoder))


def _shipped_run_file(name: str) -> str:
    """Return the first shipped run file with a data set of this name or reader."""
    for root in SHIPPED_RUN_FILES:
        for path in sorted((root / "train_configs").glob("*.yaml")):
            datasets = read_yaml(path).get("datasets") or {}
            types = {entry.get("type") for entry in datasets.values() if entry}
            if name in datasets or name in types:
                return str(path)
    registry.get_dataset_class(name)
    raise ConfigError(f"load_dataset: no shipped run file reads '{name}'; name one with cfg_path")


def _other_kinds(reader: DatasetReader, *, data_type: str | None) -> list[str]:
    """Say that a data set does not hold what the caller expects."""
    if data_type is None:
        return []
    if data_type not in KINDS:
        return [f"data_type: '{data_type}', expected {' or '.join(KINDS)}"]
    kinds = reader.kinds
    if kinds is None or KINDS[data_type] in kinds:
        return []
    return [f"datasets.{reader.name}: holds {', '.join(kinds)}, not {data_type}"]
