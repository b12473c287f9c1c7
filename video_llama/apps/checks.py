"""What can be known to be wrong with a run before a weight is read or a byte is written.

The model is built on the meta device: full size costs a second and no memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from video_llama.apps.check_samples import sample_problems
from video_llama.apps.vocabulary import vocabulary_problems
from video_llama.common.errors import CheckpointMismatch, ConfigError, MediaError
from video_llama.common.hub import local_path, way_to_get
from video_llama.common.placeholders import placeholder_hint
from video_llama.common.registry import registry, unknown_name
from video_llama.common.schema import Config, ModelConfig
from video_llama.datasets.base import NUM_PROBED, DatasetReader
from video_llama.datasets.mixture import unfit_media
from video_llama.models.decoders.readiness import why_not_ready
from video_llama.models.loading import unfilled_parts
from video_llama.models.lora_bundle import BUNDLE_KEY
from video_llama.models.sources import (
    CHECKPOINT_KEYS,
    find_checkpoint,
    named_parts,
    sources,
)
from video_llama.models.trainable import learns
from video_llama.models.video_llm import VideoLLM


@dataclass(frozen=True)
class MissingFile:
    """A file the run needs and this machine lacks.

    Attributes:
        key: dotted key that names it.
        text: what was looked for, as a sentence.
        source: where it can be had, "" if nobody knows.
        path: as it was named.
    """

    key: str
    text: str
    source: str = ""
    path: str = ""

    def __str__(self) -> str:
        way_out = f"; where to get it: {self.source}" if self.source else ""
        return f"{self.key}: {self.text}{way_out}"


def check_start(config: Config, readers: Mapping[str, DatasetReader], *, learning: bool) -> None:
    """Refuse a run that cannot work.

    Args:
        config: the typed run file.
        readers: of its data sets, by name.
        learning: whether the run trains; then every training set must teach something.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems = start_problems(
        config, readers, model=meta_model(config.model), learning=learning, to_come=()
    )
    if problems:
        raise ConfigError(problems)


def start_problems(
    config: Config,
    readers: Mapping[str, DatasetReader],
    *,
    model: VideoLLM,
    learning: bool,
    to_come: Collection[str],
) -> list[str]:
    """Say everything that keeps a run from working.

    Args:
        config: the typed run file.
        readers: of its data sets, by name.
        model: of the run file, on the meta device.
        learning: whether the run trains; then every training set must teach something.
        to_come: paths that other runs will have made when this one starts.
    """
    missing = [file for file in missing_files(config, readers) if file.path not in to_come]
    problems = [str(file) for file in missing] + misfits(model, readers)
    if learning and not missing:
        problems += _idle_steps(config, readers, model)
    if learning and not problems:
        problems += sample_problems(config, readers, model)
    return problems


def open_whole_readers(config: Config, names: Sequence[str]) -> dict[str, DatasetReader]:
    """Open data sets of any split, and look whether they are there at all.

    Raises:
        ConfigError: there is no such data set, none at all, or something it needs is missing.
    """
    unknown = [name for name in names if name not in config.datasets]
    if unknown:
        raise ConfigError([unknown_name(n, config.datasets, what="data set") for n in unknown])
    if not names:
        raise ConfigError("datasets: the run file has none")
    readers = {}
    for name in names:
        entry = config.datasets[name]
        readers[name] = registry.get_dataset_class(entry.type)(entry.config, name=name)
    problems = [str(file) for file in missing_data(config, readers)]
    if problems:
        raise ConfigError(problems)
    return readers


def meta_model(config: ModelConfig) -> VideoLLM:
    """Build a model without memory.

    Raises:
        ConfigError: its parts do not fit together.
    """
    with torch.device("meta"):
        return VideoLLM(config)


def misfits(model: VideoLLM, readers: Mapping[str, DatasetReader]) -> list[str]:
    """Say what does not go together in a model and its data, files apart."""
    specs = model.branch_specs()
    problems = unfilled_parts(model) + _overflows(model) + vocabulary_problems(model)
    for reader in readers.values():
        problems += unfit_media(reader, specs=specs, max_len=model.config.max_txt_len)
    return problems


def _overflows(model: VideoLLM) -> list[str]:
    """Say where slots, `max_txt_len` and the decoder's context do not go together."""
    specs = model.branch_specs().values()
    slots = sum(spec.slots(spec.spec.num_steps) for spec in specs)
    budget, context = model.config.max_txt_len, model.max_context
    problems = []
    if slots >= budget:
        problems.append(
            f"model.max_txt_len: {budget} positions hold no text beside {slots} slots; raise it"
        )
    if budget > context:
        problems.append(
            f"model.max_txt_len: {budget} is more than the decoder's context of {context}"
        )
    return problems


def missing_files(config: Config, readers: Mapping[str, DatasetReader]) -> Iterator[MissingFile]:
    """Yield every file that the run needs and that does not exist."""
    yield from missing_weights(config.model)
    yield from missing_data(config, readers)


def missing_data(config: Config, readers: Mapping[str, DatasetReader]) -> Iterator[MissingFile]:
    """Yield every file of data sets that cannot be used; of one that is not there, its source."""
    sources = config.model.paths.get("where_from") or {}
    for reader in readers.values():
        for problem in reader.missing():
            key, _, text = problem.partition(": ")
            source = sources.get("datasets") or reader.where_from
            path = getattr(reader.config, key.rsplit(".", 1)[-1], "")
            if isinstance(path, tuple):
                path = next((each for each in path if each in text), "")
            yield MissingFile(key, text, source if "there is no " in text else "", path=path)


def missing_weights(model: ModelConfig) -> Iterator[MissingFile]:
    """Yield every weight file that a model section names and that does not exist."""
    where_from = model.paths.get("where_from") or {}
    for key, path in named_files(model):
        text, source = _why_missing(model, key, path), str(where_from.get(key, "")).strip()
        if text:
            yield MissingFile(f"model.{key}", text, source, path=path)


def _why_missing(model: ModelConfig, key: str, path: str) -> str:
    """Say why a named path cannot be used; "" if it can."""
    if not local_path(path).exists():
        return f"there is no {path}{placeholder_hint(path) or way_to_get(path)}"
    if path == model.decoder.file:
        return why_not_ready(path) or ""
    if key in CHECKPOINT_KEYS:
        try:
            find_checkpoint(path)
        except CheckpointMismatch as error:
            return str(error)
    files = [source.file for source in sources(model) if str(source.path) == str(Path(path))]
    return next((f"there is no {file}" for file in files if not local_path(file).exists()), "")


def named_files(model: ModelConfig) -> Iterator[tuple[str, str]]:
    """Yield (key, path) of every weight file a model section names, each path once."""
    # The first key of several that name one directory is the one that a person wrote.
    keys = reversed(model.paths.items())
    by_path = {path: key for key, path in keys if isinstance(path, str)}
    seen = set()
    for name, part in [("decoder", model.decoder), *named_parts(model)]:
        if part.file is not None and part.file not in seen:
            seen.add(part.file)
            yield by_path.get(part.file, f"{name}.weights"), part.file
    if isinstance(bundle := model.paths.get(BUNDLE_KEY), str):
        yield BUNDLE_KEY, bundle
    for key in (*CHECKPOINT_KEYS, "tokenizer"):
        path = getattr(model, key)
        if path is not None:
            yield key, path


def _idle_steps(
    config: Config, readers: Mapping[str, DatasetReader], model: VideoLLM
) -> Iterator[str]:
    """Say which training sets have nothing that a learning part would see.

    A step draws one data set; without a gradient it would only decay the weights.
    """
    if learns(model.decoder):
        return
    seen_by_learners = {
        kind
        for name, branch in config.model.branches.items()
        if model.branches[name].learns
        for kind in branch.media
    }
    if not seen_by_learners:
        yield "model: no part learns; set `trainable: true` on one"
        return
    for name, reader in readers.items():
        if config.datasets[name].split != "train":
            continue
        kinds = set(reader.kinds) if reader.kinds is not None else _probed_kinds(reader)
        if not kinds & seen_by_learners:
            yield (
                f"datasets.{name}: its samples hold {', '.join(sorted(kinds)) or 'no media'}, and "
                f"no part that learns sees them (those see {', '.join(sorted(seen_by_learners))}), "
                "so its steps would teach nothing; leave it out, or train the decoder"
            )


def _probed_kinds(reader: DatasetReader) -> set[str]:
    """Return the kinds of media of some samples of a data set whose samples differ."""
    kinds: set[str] = set()
    step = max(1, len(reader) // NUM_PROBED)
    for index in islice(range(0, len(reader), step), NUM_PROBED):
        try:
            kinds |= {item.kind for item in reader.sample(index).media}
        except MediaError:
            continue
    return kinds
