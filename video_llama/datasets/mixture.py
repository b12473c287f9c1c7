"""From a place in the order to an encoded sample: media read, text tokenised, faults counted.

What is wrong with one sample is a `MediaError` (or a text too long for the context): its place is
filled with another one, see `fills`, and the skip travels with the sample to the main process.
Anything else is a mistake in the configuration and stops the run, and so does a data set of which
nothing can be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch.utils.data import Dataset

from video_llama.common.errors import (
    ConfigError,
    ContextOverflow,
    MediaError,
    NothingToLearn,
    VideoLlamaError,
)
from video_llama.common.rng import fold
from video_llama.common.types import IGNORE_INDEX, BranchSpec, Sample, VideoSpec
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.collate import EncodedSample, Skip
from video_llama.datasets.fills import Record, candidates
from video_llama.datasets.routing import branch_of, route
from video_llama.datasets.sample_encoder import SampleEncoder
from video_llama.datasets.stream import SampleRef
from video_llama.processors.media import Augment

NO_FILE = "no such file"
"""How `processors` says it."""

NUM_NAMED = 6
"""Faults shown of a data set of which nothing can be used."""


class MixtureDataset(Dataset[EncodedSample]):
    """All training data behind one `__getitem__`; what comes when is the plan's business.

    Args:
        readers: by name.
        encoder: reads media and tokenises.
        seed: of the run.
        augment: what is done to pictures, by data set; none if a name is not there.
        record: how places were filled before, of a run that goes on.

    Raises:
        ConfigError: augmentation and cache at once, a crop for an encoder that has its own way to
            a square, or media that no branch takes.
    """

    def __init__(
        self,
        readers: Mapping[str, DatasetReader],
        *,
        encoder: SampleEncoder,
        seed: int,
        augment: Mapping[str, Augment] | None = None,
        record: Record | None = None,
    ) -> None:
        self.readers = readers
        self.encoder = encoder
        self.seed = seed
        self.augment = augment or {}
        self.record = record or {}
        self._seeds: dict[tuple[str, int], int] = {}
        self._check()

    def __getitem__(self, ref: SampleRef) -> EncodedSample:
        """Return the sample at a place of the order, or the one that takes its place.

        Raises:
            MediaError: so many samples in a row cannot be used that the data must be wrong.
            ConfigError: anything that is no single sample's fault.
        """
        known = self.record.get((ref.dataset, ref.position), ())
        if known and known[0].index != ref.index:
            # Of another order: the data set has changed since.
            known = ()
        skips = list(known)
        reader = self.readers[ref.dataset]
        for index in candidates(reader, ref, seed=self.seed, known=known):
            candidate = ref if index == ref.index else replace(ref, index=index)
            try:
                sample = _with_targets(self.load(candidate))
            except (MediaError, ContextOverflow) as error:
                skips.append(self._skip(candidate, error))
            else:
                return replace(
                    sample,
                    skips=tuple(replace(skip, filled_by=index) for skip in skips),
                    position=ref.position,
                    index=index,
                )
        raise _nothing_usable(reader, skips)

    def load(self, ref: SampleRef) -> EncodedSample:
        """Return the very sample a place names, without another in its place.

        Raises:
            MediaError: it cannot be used.
            ContextOverflow: its text is too long.
        """
        sample = self.named(ref)
        media = self.encoder.load_media(
            sample,
            augment=self.augment.get(ref.dataset, "none"),
            seed=fold(self._seed_of(ref), "media", sample.key),
        )
        return self.encoder.encode(sample, media)

    def named(self, ref: SampleRef) -> Sample:
        """Return the very sample a place names, its media not loaded.

        Raises:
            MediaError: its row cannot be used.
        """
        return self.readers[ref.dataset].sample(ref.index, seed=self._seed_of(ref))

    def _seed_of(self, ref: SampleRef) -> int:
        """Return what draws between readings of a sample; another one in every pass."""
        place = (ref.dataset, ref.pass_index)
        if place not in self._seeds:
            self._seeds[place] = fold(self.seed, "sample", *place)
        return self._seeds[place]

    def _skip(self, ref: SampleRef, error: MediaError | ContextOverflow) -> Skip:
        """Describe a sample that could not be used."""
        return Skip(
            dataset=ref.dataset,
            key=self.readers[ref.dataset].key(ref.index),
            path=(error.path or "") if isinstance(error, MediaError) else "",
            reason=error.reason if isinstance(error, MediaError) else str(error),
            position=ref.position,
            index=ref.index,
        )

    def _check(self) -> None:
        """Find mistakes before the first step."""
        problems = []
        for name, reader in self.readers.items():
            if self.encoder.cache is not None and self.augment.get(name, "none") != "none":
                problems.append(
                    f"datasets.{name}.augment: {self.augment[name]} and run.feature_cache exclude "
                    "each other, a crop that changes would never be found again; set augment: "
                    "none, or feature_cache: null"
                )
            if self.augment.get(name, "none") == "random_crop":
                problems += unfit_crops(reader, specs=self.encoder.specs)
            problems += unfit_media(
                reader, specs=self.encoder.specs, max_len=self.encoder.text.max_len
            )
        if problems:
            raise ConfigError(problems)


def _with_targets(sample: EncodedSample) -> EncodedSample:
    """Return a sample that something can be learnt from; one that ends with a question cannot.

    Raises:
        NothingToLearn: no token that is predicted is a target.
    """
    if all(label == IGNORE_INDEX for label in sample.labels[1:]):
        raise NothingToLearn(
            f"{sample.key}: it ends with a question, and no answer is to be learnt"
        )
    return sample


def _nothing_usable(reader: DatasetReader, skips: Sequence[Skip]) -> VideoLlamaError:
    """Say of so many faults in a row what they must come from."""
    named = skips[:NUM_NAMED]
    way_out = "`video-llama data check` finds such rows; mend or drop them"
    if all(skip.reason == NO_FILE for skip in skips):
        paths = ", ".join(skip.path for skip in named)
        return ConfigError(
            f"datasets.{reader.name}.media: {getattr(reader.config, 'media', '')}: none of "
            f"{len(skips)} files looked for is there: {paths}; if the folder is right, {way_out}"
        )
    reasons = "\n".join(f"  - {skip.key}: {skip.path} {skip.reason}" for skip in named)
    return MediaError(
        f"datasets.{reader.name}: {len(skips)} samples in a row cannot be used, is "
        f"datasets.{reader.name}.media right? If it is, {way_out}\n{reasons}"
    )


def unfit_crops(reader: DatasetReader, *, specs: Mapping[str, BranchSpec]) -> list[str]:
    """Say for which branches the training crop would make other squares than chat does.

    Args:
        reader: of the data set; nothing is read.
        specs: every branch, by name.
    """
    return [
        f"datasets.{reader.name}.augment: random_crop squashes its box to the square, and branch "
        f"'{name}' is fed by resize: {branch.spec.resize}; set augment: none, or "
        f"model.branches.{name}.encoder.resize: squash"
        for name, branch in specs.items()
        if isinstance(branch.spec, VideoSpec)
        and branch.spec.resize != "squash"
        and (reader.kinds is None or set(reader.kinds) & set(branch.media))
    ]


def unfit_media(
    reader: DatasetReader, *, specs: Mapping[str, BranchSpec], max_len: int
) -> list[str]:
    """Say which media of a data set no branch takes, or the context cannot hold.

    Args:
        reader: of the data set; nothing is read.
        specs: every branch, by name.
        max_len: decoder positions of a sample, media included.
    """
    kinds = reader.kinds or ()
    try:
        branches = [branch_of(kind, routes=route(specs), dataset=reader.name) for kind in kinds]
    except ConfigError as error:
        return error.problems
    slots = sum(specs[name].slots(specs[name].spec.num_steps) for name in branches)
    if slots >= max_len:
        return [
            f"model.max_txt_len: {max_len} decoder positions, the media of "
            f"datasets.{reader.name} alone take {slots}"
        ]
    return []
