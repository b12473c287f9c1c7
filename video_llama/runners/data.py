"""What a run reads: its data sets joined to the model's branches, as streams of batches.

The order is `stream`'s, reading `mixture`'s, batches are `collate`'s; here they meet the run file,
torch's data loader and the feature cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from video_llama.common.dist import World
from video_llama.common.errors import VideoLlamaError
from video_llama.common.generation import GenerationSettings
from video_llama.common.registry import registry
from video_llama.common.schema import Config
from video_llama.common.types import Batch, BranchSpec, LossOutput
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.collate import Collator, EncodedSample, LoadedBatch, Skip
from video_llama.datasets.feature_cache import FeatureCache
from video_llama.datasets.fills import Record
from video_llama.datasets.mixture import MixtureDataset
from video_llama.datasets.sample_encoder import MediaReader, SampleEncoder, TextSettings
from video_llama.datasets.stream import Plan, PlanSampler, SampleRef, Share, in_order
from video_llama.processors.media import MediaCompat, MediaLoader
from video_llama.processors.supervised import SupervisedLoader
from video_llama.runners.epochs import num_steps
from video_llama.runners.lengths import shared_lengths
from video_llama.runners.signals import leave_signals_to_parent
from video_llama.tasks.base import Model, StopRule

SPLITS = ("train", "valid")
"""Splits a training run reads; test splits are for `evaluate`."""


def open_readers(config: Config) -> dict[str, DatasetReader]:
    """Return the readers of a run's training and validation data; annotations are not read yet."""
    return {
        name: registry.get_dataset_class(entry.type)(entry.config, name=name)
        for name, entry in config.datasets.items()
        if entry.split in SPLITS
    }


def open_encoder(
    config: Config, *, specs: Mapping[str, BranchSpec], text: TextSettings, rank: int
) -> SampleEncoder:
    """Join media, text and the feature cache of a run file; training and evaluation share features.

    Args:
        config: the run file.
        specs: the model's branches; with fingerprints if features are cached.
        text: how samples become tokens.
        rank: of this process, names its cache files.
    """
    compat = MediaCompat.named(config.model.compat)
    cache = None
    if config.run.feature_cache is not None:
        identity = f"{config.run.video_reader} {compat}"
        cache = FeatureCache(config.run.feature_cache, rank=rank, reader=identity)
    # How many slots an item takes is no affair of decoders, which need not import models for it.
    fed = {name: replace(spec, slots=int) for name, spec in specs.items()}
    reader: MediaReader = MediaLoader(fed, reader=config.run.video_reader, compat=compat)
    if config.run.decode_timeout_s is not None:
        reader = SupervisedLoader(reader, timeout_s=config.run.decode_timeout_s)
    return SampleEncoder(specs, text=text, reader=reader, cache=cache)


class RunData:
    """The training and validation batches of one rank.

    Args:
        config: the run file.
        readers: as `open_readers` gives them; nothing they need is missing.
        specs: the model's branches; with fingerprints if features are cached.
        text: how samples become tokens.
        world: this process among the others.
        device: where the batches go; for a GPU they are put into memory it copies from by itself.
        record: how places were filled before, of a run that goes on.

    Raises:
        ConfigError: data sets do not suit the model, or there is nothing to train on.
    """

    def __init__(
        self,
        config: Config,
        *,
        readers: Mapping[str, DatasetReader],
        specs: Mapping[str, BranchSpec],
        text: TextSettings,
        world: World,
        device: str,
        record: Record | None = None,
    ) -> None:
        self._record = record
        self._pins_memory = device.startswith("cuda")
        self._config = config
        self._world = world
        encoder = open_encoder(config, specs=specs, text=text, rank=world.rank)
        self.cache = encoder.cache
        self._collator = Collator(specs, pad_id=text.tokenizer.pad_id)
        self._train = self._mixture("train", readers, encoder)
        self._valid = self._mixture("valid", readers, encoder)
        lengths = shared_lengths(self._train.readers, encoder=encoder, run=config.run)
        ratios = {name: entry.sample_ratio for name, entry in config.datasets.items()}
        self.plan = Plan(
            seed=config.run.seed,
            datasets={
                name: Share(len(reader), ratios[name], reader.blocks, lengths.get(name))
                for name, reader in self._train.readers.items()
            },
            batch_size=config.run.batch_size_train,
            world_size=world.size,
            accum=config.run.accum_grad_iters,
        )

    @property
    def has_valid(self) -> bool:
        """Whether there is anything to validate on."""
        return bool(self._valid.readers)

    def train_batches(self, start_step: int) -> Iterator[LoadedBatch]:
        """Yield this rank's batches from an optimizer step to the end of the run.

        Args:
            start_step: 0-based; nothing before it is read.
        """
        sampler = PlanSampler(
            self.plan,
            rank=self._world.rank,
            start_step=start_step,
            num_steps=num_steps(self._config.run) - start_step,
        )
        return self._batches(self._train, sampler)

    def valid_batches(self) -> Iterator[LoadedBatch]:
        """Yield this rank's share of every validation set, in file order."""
        batches = [
            in_order(
                name,
                len(reader),
                batch_size=self._config.run.batch_size_eval,
                rank=self._world.rank,
                world_size=self._world.size,
            )
            for name, reader in self._valid.readers.items()
        ]
        return self._batches(self._valid, list(chain.from_iterable(batches)))

    def keep(self, frontier: Mapping[str, Tensor], loaded: LoadedBatch) -> None:
        """Put what the frozen encoders just computed into the cache, if there is one.

        Args:
            frontier: float[T, N, D] by feature key, see `LossOutput.frontier`.
            loaded: the batch it was computed from.
        """
        if self.cache is not None:
            self.cache.add(frontier, times_s=loaded.times_s, stamps=loaded.stamps)

    def flush(self) -> None:
        """Bring cached features to disk, where data workers and other ranks find them."""
        if self.cache is not None:
            self.cache.flush()

    def _mixture(
        self,
        split: Literal["train", "valid"],
        readers: Mapping[str, DatasetReader],
        encoder: SampleEncoder,
    ) -> MixtureDataset:
        """Put the data sets of a split behind one lookup."""
        wanted = self._config.run.valid.datasets if split == "valid" else None
        entries = {
            name: entry
            for name, entry in self._config.datasets.items()
            if entry.split == split and (wanted is None or name in wanted)
        }
        return MixtureDataset(
            {name: readers[name] for name in entries},
            encoder=encoder,
            seed=self._config.run.seed,
            augment={name: entry.augment for name, entry in entries.items()},
            record=self._record,
        )

    def _batches(
        self,
        dataset: MixtureDataset,
        order: Sampler[list[SampleRef]] | Sequence[list[SampleRef]],
    ) -> Iterator[LoadedBatch]:
        """Read batches in worker processes, or here if there are none.

        Raises:
            VideoLlamaError: whatever the data set raised.
        """
        num_workers = self._config.run.num_workers
        loader: DataLoader[LoadedBatch | VideoLlamaError] = DataLoader(
            _Faults(dataset),
            batch_sampler=order,
            collate_fn=_CollateOrFault(self._collator),
            num_workers=num_workers,
            pin_memory=self._pins_memory,
            worker_init_fn=leave_signals_to_parent if num_workers else None,
        )
        for loaded in loader:
            if isinstance(loaded, VideoLlamaError):
                raise loaded
            yield loaded


class _Faults(Dataset[Any]):
    """Hands a data set's errors on as values; torch would bury their text in a traceback."""

    def __init__(self, dataset: MixtureDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, ref: SampleRef) -> EncodedSample | VideoLlamaError:
        try:
            return self._dataset[ref]
        except VideoLlamaError as error:
            return error


@dataclass(frozen=True)
class _CollateOrFault:
    """Collates samples, or returns the first error among them."""

    collator: Collator

    def __call__(
        self, samples: Sequence[EncodedSample | VideoLlamaError]
    ) -> LoadedBatch | VideoLlamaError:
        good = []
        for sample in samples:
            if isinstance(sample, VideoLlamaError):
                return sample
            good.append(sample)
        return self.collator(good)


class CachingModel:
    """A model under evaluation that keeps what its frozen encoders compute.

    Args:
        model: in evaluation mode.
        data: with the cache.

    Attributes:
        skips: samples that could not be used.
        num_used: samples that could, or that took the place of those.
    """

    def __init__(self, model: Model, *, data: RunData) -> None:
        self._model = model
        self._data = data
        self._loaded: LoadedBatch | None = None
        self.skips: list[Skip] = []
        self.num_used = 0

    def watch(self, batches: Iterable[LoadedBatch]) -> Iterator[Batch]:
        """Hand batches on and remember what came with the last one."""
        for loaded in batches:
            self._loaded = loaded
            self.skips += loaded.skips
            self.num_used += len(loaded.batch.keys)
            yield loaded.batch

    def __call__(self, batch: Batch) -> LossOutput:
        """See `Model`."""
        output = self._model(batch)
        if self._loaded is not None and self._loaded.batch is batch:
            self._data.keep(output.frontier, self._loaded)
        return output

    def generate(
        self, batch: Batch, *, settings: GenerationSettings, stop: StopRule | None = None
    ) -> list[list[int]]:
        """See `Model`."""
        return self._model.generate(batch, settings=settings, stop=stop)

    def score(self, prompts: Batch, *, continuations: Batch, rows: Sequence[int]) -> LossOutput:
        """See `Model`."""
        return self._model.score(prompts, continuations=continuations, rows=rows)
