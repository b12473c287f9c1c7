"""What a sample was made of, small enough to be kept for every sample of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from video_llama.datasets.collate import EncodedSample, RoutedItem

DECIMALS = 3
"""Of seconds in a trace: finer than the frames of any clip."""


@dataclass(frozen=True)
class MediaTrace:
    """What was used of one media item.

    Attributes:
        kind: image, video or audio.
        path: the file, or its name in a shard.
        branch: it went to.
        times_s: seconds of the frames, or where the clips of a sound start.
        span_s: part of the file that was asked for; None for its beginning or end.
        crop: top, left, height and width in pixels of the box that was cut out, None for all.
        is_cached: its features came from the cache, and the file was not read.
    """

    kind: str
    path: str
    branch: str
    times_s: tuple[float, ...]
    span_s: tuple[float | None, float | None] | None = None
    crop: tuple[int, int, int, int] | None = None
    is_cached: bool = False


@dataclass(frozen=True)
class SampleTrace:
    """Which sample stood at a place of the order, and what was used of it.

    Attributes:
        key: of the sample.
        position: its place, -1 if it has none.
        index: in its data set, -1 if it has none.
        media: in text order.
        filled_for: (key, reason) of samples that were tried first and could not be used.
    """

    key: str
    position: int
    index: int
    media: tuple[MediaTrace, ...] = ()
    filled_for: tuple[tuple[str, str], ...] = ()


def trace_of(sample: EncodedSample) -> SampleTrace:
    """Return what is kept of a sample."""
    return SampleTrace(
        key=sample.key,
        position=sample.position,
        index=sample.index,
        media=tuple(_media_trace(routed) for routed in sample.media),
        filled_for=tuple((skip.key, skip.reason) for skip in sample.skips),
    )


def _media_trace(routed: RoutedItem) -> MediaTrace:
    item = routed.item
    span_s = (item.start_s, item.end_s)
    return MediaTrace(
        kind=item.kind,
        path=item.path,
        branch=routed.branch,
        times_s=tuple(round(time_s, DECIMALS) for time_s in item.times_s),
        span_s=None if span_s == (None, None) else span_s,
        crop=item.crop,
        is_cached=item.features is not None,
    )
