"""From encoded samples to the batch a model eats.

Every branch of the plan is there, with no row if no sample of the batch needs it, because all
ranks must run the same parts. Rows are padded here and nowhere else; what is padding is said by
masks.

Shapes: B batch, L text, M rows of a branch, T time steps, N tokens a step, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from video_llama.common.errors import ConfigError
from video_llama.common.types import (
    IGNORE_INDEX,
    Batch,
    BatchItem,
    BranchInput,
    BranchSpec,
    MediaItem,
)
from video_llama.datasets.feature_cache import FileStamp
from video_llama.datasets.padding import Padding, stack_steps
from video_llama.datasets.routing import num_steps
from video_llama.datasets.trace import SampleTrace, trace_of


@dataclass(frozen=True)
class Skip:
    """A sample that could not be used, why, and what took its place.

    Attributes:
        dataset: name of its data set.
        key: of the sample.
        path: the file at fault, empty if it was none.
        reason: in words.
        position: place in the run's order that was filled with another sample; of a validation
            set, its place there.
        index: of the sample in its data set.
        filled_by: index of the sample that took the place.
    """

    dataset: str
    key: str
    path: str
    reason: str
    position: int
    index: int
    filled_by: int | None = None

    @property
    def identity(self) -> tuple[str, int, int]:
        """What no other skip of a run has."""
        return self.dataset, self.position, self.index


@dataclass(frozen=True)
class RoutedItem:
    """A loaded media item, the branch it goes to, and the decoder positions it takes."""

    item: MediaItem
    branch: str
    num_slots: int


@dataclass(frozen=True)
class EncodedSample:
    """One sample, read and tokenised.

    Attributes:
        key: of the sample.
        dataset: name of its data set.
        input_ids: token ids, 0 at media positions.
        labels: `IGNORE_INDEX` where nothing is supervised.
        slots: 0 for text, k for the k-th of `media`.
        media: in text order.
        meta: what the task needs again.
        skips: samples that came before this one at its position and could not be used.
        stamps: files whose content was hashed, for the feature cache.
        position: place in the run's order, -1 if it has none.
        index: in its data set, -1 if it has none.
    """

    key: str
    dataset: str
    input_ids: list[int]
    labels: list[int]
    slots: list[int]
    media: tuple[RoutedItem, ...] = ()
    meta: Mapping[str, object] = field(default_factory=dict)
    skips: tuple[Skip, ...] = ()
    stamps: tuple[FileStamp, ...] = ()
    position: int = -1
    index: int = -1


@dataclass
class LoadedBatch:
    """What a data loader hands to the loop: the batch, and news for the main process.

    Attributes:
        batch: for the model.
        skips: samples that could not be used.
        times_s: seconds of the valid steps of every raw item, by feature key.
        stamps: files whose content was hashed.
        traces: what the samples were made of.
    """

    batch: Batch
    skips: tuple[Skip, ...] = ()
    times_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    stamps: tuple[FileStamp, ...] = ()
    traces: tuple[SampleTrace, ...] = ()

    def pin_memory(self) -> LoadedBatch:
        """Return the same in memory a GPU copies from by itself; torch's data loader calls this."""
        media = {name: _pin(rows) for name, rows in self.batch.media.items()}
        return replace(self, batch=replace(_pin(self.batch), media=media))


@dataclass(frozen=True)
class Collator:
    """Collates lists of samples; one object for a data loader's `collate_fn`.

    Attributes:
        specs: every branch of the plan, by name.
        pad_id: token that fills rows.
        padding_side: right for training, left in front of text that will be generated.
    """

    specs: Mapping[str, BranchSpec]
    pad_id: int
    padding_side: Literal["left", "right"] = "right"

    def __call__(self, samples: Sequence[EncodedSample]) -> LoadedBatch:
        """Return the batch of `samples` with what they report."""
        batch = collate(
            samples, specs=self.specs, pad_id=self.pad_id, padding_side=self.padding_side
        )
        return LoadedBatch(
            batch=batch,
            skips=tuple(skip for sample in samples for skip in sample.skips),
            times_s={
                routed.item.feature_key: _times_s(routed.item)
                for sample in samples
                for routed in sample.media
                if routed.item.feature_key is not None and routed.item.features is None
            },
            stamps=tuple(stamp for sample in samples for stamp in sample.stamps),
            traces=tuple(trace_of(sample) for sample in samples),
        )


def collate(
    samples: Sequence[EncodedSample],
    *,
    specs: Mapping[str, BranchSpec],
    pad_id: int,
    padding_side: Literal["left", "right"] = "right",
) -> Batch:
    """Put samples side by side.

    Two samples, a clip of two slots and one of one, padded on the right with 9:

        input_ids  1 0 0 5 6        slots  0 1 1 0 0
                   1 0 7 9 9               0 2 0 0 0

    Args:
        samples: of one data set, at least one.
        specs: every branch of the plan, by name.
        pad_id: token that fills rows.
        padding_side: right for training, left in front of text that will be generated.

    Returns:
        The batch; see `Batch` for shapes.

    Raises:
        ConfigError: a text has more or fewer places for an item than the item takes.
    """
    problems = [text for sample in samples for text in _misplaced(sample)]
    if problems:
        raise ConfigError(problems)
    routed = [(index, media) for index, sample in enumerate(samples) for media in sample.media]
    items = _number_rows(routed)
    pad = Padding(max(len(sample.input_ids) for sample in samples), padding_side)
    first_item = 0
    slots = []
    for sample in samples:
        slots.append([slot and slot + first_item for slot in sample.slots])
        first_item += len(sample.media)
    return Batch(
        input_ids=pad.rows([s.input_ids for s in samples], fill=pad_id, dtype=torch.int64),
        attention_mask=pad.rows(
            [[1] * len(s.input_ids) for s in samples], fill=0, dtype=torch.bool
        ),
        labels=pad.rows([s.labels for s in samples], fill=IGNORE_INDEX, dtype=torch.int64),
        slots=pad.rows(slots, fill=0, dtype=torch.int32),
        items=items,
        media={
            name: _branch_input([m.item for _, m in routed if m.branch == name], spec)
            for name, spec in specs.items()
        },
        keys=[sample.key for sample in samples],
        dataset=samples[0].dataset,
        meta=[sample.meta for sample in samples],
    )


def _misplaced(sample: EncodedSample) -> Iterator[str]:
    """Say which items of a sample do not fill the places that its text has for them."""
    for number, routed in enumerate(sample.media, start=1):
        num_places = sample.slots.count(number)
        if num_places != routed.num_slots:
            yield (
                f"{sample.key}: its text has {num_places} places for item {number}, "
                f"{routed.item.kind} {routed.item.path}, which takes {routed.num_slots} decoder "
                f"positions in branch '{routed.branch}'; encode text and media for the same model"
            )
    strange = max(sample.slots, default=0)
    if strange > len(sample.media):
        yield (
            f"{sample.key}: its text has places for item {strange}, and there are "
            f"{len(sample.media)} items; name every medium of the text in its messages"
        )


def _number_rows(routed: Sequence[tuple[int, RoutedItem]]) -> list[BatchItem]:
    """Give every media item a row of its branch, in the order of the batch."""
    num_rows: dict[str, int] = {}
    items = []
    for sample, media in routed:
        row = num_rows.get(media.branch, 0)
        num_rows[media.branch] = row + 1
        items.append(
            BatchItem(
                branch=media.branch,
                row=row,
                num_slots=media.num_slots,
                sample=sample,
                feature_key=media.item.feature_key,
                kind=media.item.kind,
            )
        )
    return items


def _branch_input(items: Sequence[MediaItem], spec: BranchSpec) -> BranchInput:
    """Pad and stack a branch's items, raw ones and cached ones apart."""
    raw_rows = [row for row, item in enumerate(items) if item.features is None]
    cached_rows = [row for row, item in enumerate(items) if item.features is not None]
    raw, raw_mask = stack_steps(
        [_raw(items[row]) for row in raw_rows],
        shape=(spec.spec.num_steps, *spec.spec.step_shape),
    )
    result = BranchInput(raw=raw, raw_mask=raw_mask, raw_rows=torch.tensor(raw_rows).long())
    if cached_rows:
        frontier = spec.frontier
        result.cached, result.cached_mask = stack_steps(
            [features for item in items if (features := item.features) is not None],
            shape=(frontier.num_steps, frontier.num_tokens, frontier.width),
        )
        result.cached_rows = torch.tensor(cached_rows).long()
    return result


def _raw(item: MediaItem) -> Tensor:
    raw = item.pixels if item.pixels is not None else item.mel
    assert raw is not None, f"{item.path} was not loaded"
    return raw


def _times_s(item: MediaItem) -> tuple[float, ...]:
    """Return one time per valid step; a loader that knows none leaves zeros."""
    return item.times_s or (0.0,) * num_steps(item)


_Tensors = TypeVar("_Tensors", Batch, BranchInput)


def _pin(value: _Tensors) -> _Tensors:
    """Return a copy whose tensors are in pinned memory."""
    tensors: dict[str, Any] = {
        each.name: tensor.pin_memory()
        for each in fields(value)
        if isinstance(tensor := getattr(value, each.name), Tensor)
    }
    return replace(value, **tensors)
