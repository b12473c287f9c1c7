"""How long samples are, counted before a run: tokens of their text and slots of their media.

No medium is opened: every clip and sound is taken to have all the steps that its branch takes, and
a step every second where the template tells the seconds of frames. Of a row with several readings
(`prompts`, `max_turns`) one is counted. What was counted is kept, see `length_files`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from video_llama.common.dist import is_main
from video_llama.common.errors import (
    ContextOverflow,
    MediaError,
    NothingToLearn,
    VideoLlamaError,
)
from video_llama.common.types import MediaItem, MediaKind, Sample
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.collate import RoutedItem
from video_llama.datasets.length_order import POOLS, SampleLengths
from video_llama.datasets.sample_encoder import LoadedMedia, SampleEncoder

SPAN = 256
"""Samples counted together; progress is told span by span."""

MANY = 20 * SPAN
"""Samples from which on it is worth it to start processes."""

UNKNOWN = -1
"""In place of the number of a pool: nobody can say what the row would have been about."""

_Span = list[tuple[int, int]]


@dataclass(frozen=True)
class Counting:
    """How samples are counted.

    Attributes:
        encoder: knows branches, template and tokenizer.
        num_workers: processes that count where there is much to count; 0 counts here.
        worker_init: called in each of them first.
    """

    encoder: SampleEncoder
    num_workers: int = 0
    worker_init: Callable[[int], None] | None = None


def count_lengths(reader: DatasetReader, *, counting: Counting) -> SampleLengths:
    """Count all samples of a data set.

    A sample that does not fit the context counts as long as the context, and one whose row cannot
    be read belongs to the largest pool, like most of those that may take its place.

    Raises:
        VideoLlamaError: something is wrong that is no sample's own fault.
    """
    num = len(reader)
    spans = [range(start, min(start + SPAN, num)) for start in range(0, num, SPAN)]
    num_workers = counting.num_workers if num >= MANY else 0
    loader: DataLoader[_Span | VideoLlamaError] = DataLoader(
        _Counter(reader, counting.encoder),
        sampler=spans,
        num_workers=num_workers,
        collate_fn=_only,
        worker_init_fn=counting.worker_init if num_workers else None,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    measured: _Span = []
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not is_main()) as bar:
        task = bar.add_task(f"lengths of {reader.name}", total=num)
        for span in loader:
            if isinstance(span, VideoLlamaError):
                raise span
            measured += span
            bar.advance(task, len(span))
    found = np.array(measured)
    lengths = SampleLengths(found[:, 0].astype(np.int32), found[:, 1].astype(np.int8))
    known = lengths.pools[lengths.pools != UNKNOWN]
    pool = SampleLengths(lengths.positions, known).largest_pool
    return replace(lengths, pools=np.where(lengths.pools == UNKNOWN, pool, lengths.pools))


def measure(sample: Sample, *, encoder: SampleEncoder) -> int:
    """Return the decoder positions of a sample whose media are not loaded.

    Raises:
        ContextOverflow: it does not fit the context.
        ConfigError: no branch takes its media, or its messages do not suit the template.
    """
    return len(encoder.encode(sample, _stand_ins(sample, encoder=encoder)).input_ids)


def pool_of(sample: Sample, *, encoder: SampleEncoder) -> int:
    """Return the number of the pool of a sample: that of the medium with the most slots."""
    media = _stand_ins(sample, encoder=encoder).items
    if not media:
        return 0
    return POOLS.index(max(media, key=lambda routed: routed.num_slots).item.kind)


def full_steps(kind: MediaKind, *, encoder: SampleEncoder, dataset: str) -> tuple[str, int]:
    """Return the branch that takes a kind of media, and the steps of an item of full length."""
    branch = encoder.branch_of(MediaItem(kind, ""), dataset=dataset)
    return branch, 1 if kind == "image" else encoder.specs[branch].spec.num_steps


def _stand_ins(sample: Sample, *, encoder: SampleEncoder) -> LoadedMedia:
    """Return media without content in place of those a sample names."""
    items = []
    for item in sample.media:
        branch, num_steps = full_steps(item.kind, encoder=encoder, dataset=sample.dataset)
        times_s = tuple(float(second) for second in range(num_steps))
        num_slots = encoder.specs[branch].slots(num_steps)
        items.append(RoutedItem(replace(item, times_s=times_s), branch, num_slots))
    return LoadedMedia(tuple(items))


class _Counter(Dataset[_Span | VideoLlamaError]):
    """Counts spans of a data set; a dataset of torch, so that processes share the work."""

    def __init__(self, reader: DatasetReader, encoder: SampleEncoder) -> None:
        self._reader = reader
        self._encoder = encoder

    def __getitem__(self, indices: Sequence[int]) -> _Span | VideoLlamaError:
        """Return length and pool of some samples; an error that is no sample's own is returned."""
        try:
            return list(self._count(indices))
        except VideoLlamaError as error:
            return error

    def _count(self, indices: Sequence[int]) -> Iterator[tuple[int, int]]:
        for index in indices:
            try:
                sample = self._reader.sample(index)
            except MediaError:
                yield 1, self._pool_of_row(index)
                continue
            pool = pool_of(sample, encoder=self._encoder)
            try:
                yield measure(sample, encoder=self._encoder), pool
            except (MediaError, NothingToLearn):
                yield 1, pool
            except ContextOverflow:
                yield self._encoder.text.max_len, pool

    def _pool_of_row(self, index: int) -> int:
        """Return the pool of a sample that cannot be used, as far as its row tells."""
        kinds = self._reader.kinds_of(index)
        if kinds is None:
            return UNKNOWN
        slots = {
            kind: self._encoder.specs[branch].slots(num_steps)
            for kind in sorted(kinds)
            for branch, num_steps in [full_steps(kind, encoder=self._encoder, dataset="")]
        }
        return POOLS.index(max(slots, key=slots.__getitem__)) if slots else 0


def _only(spans: Sequence[_Span | VideoLlamaError]) -> _Span | VideoLlamaError:
    (span,) = spans
    return span
