"""Frame readers: the moments a file has pictures for, and the pictures at some of them.

PyAV is the default: every format, exact, constant memory. decord is faster on long clips; at
native size both give the same bytes. The published code let decord 0.6 resize while decoding:
PyAV's bilinear comes nearest to it, decord2 resizes bicubically. Which frames are wanted is
decided in `video`.

Shapes: H height, W width.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from video_llama.common.errors import ConfigError, MediaError
from video_llama.processors.containers import Source, check_file, name_of
from video_llama.processors.media_file import MediaFile, TolerantDecoder
from video_llama.processors.pictures import Picture, Size, fit, shrunk_shape
from video_llama.processors.survey import FORMATS_WITHOUT_STAMPS

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

StampRule = Literal["read", "count"]

MIN_SEEK_FRAMES = 48
"""Fewer frames than this are decoded and thrown away rather than jumped over: a seek costs more."""

DECORD_BROKEN_WIDTHS = frozenset({16, 24, 32, 48, 72, 96, 144})
"""Output widths at which decord (0.6 or decord2 3.4) fails with "size must exactly match"."""


class FrameReader(Protocol):
    """What every reader offers.

    Attributes:
        times_s: when each frame is shown, seconds from the first, non-decreasing.
        fps: mean frames per second.
        num_damaged: packets passed over so far.
    """

    times_s: list[float]
    fps: float
    num_damaged: int

    def read(self, indices: Sequence[int], *, size: Size) -> dict[int, Picture]:
        """Return the pictures at `indices`; those that cannot be decoded are left out."""


class PyavReader:
    """Reads any container through FFmpeg, seeking only over long stretches.

    Args:
        media: the file.
        index: "packets" believes the time stamps in the container; "decoded" decodes everything
            once and counts what really comes out, for damaged files.

    Raises:
        MediaError: not media, no video stream, or not one frame.
    """

    def __init__(
        self, media: MediaFile, *, index: Literal["packets", "decoded"] = "packets"
    ) -> None:
        stream = media.video
        if stream is None:
            raise MediaError("no video stream", path=media.name)
        # Noted at once: reading on may open the file again, with other streams.
        tick = stream.time_base
        assert tick is not None
        rate = stream.average_rate or stream.guessed_rate
        self._ticks_per_frame = max(1, round(1 / (rate * tick))) if rate else 1
        self._stamp_rule: StampRule = (
            "count" if media.container.format.name in FORMATS_WITHOUT_STAMPS else "read"
        )
        self._media = media
        self._keyframes: list[int] = []
        self._pts: list[int] = []
        self.num_damaged = 0
        if index == "packets":
            self._index_packets()
        if not self._pts:
            self._index_decoded()
        if not self._pts:
            raise MediaError("no frame could be decoded", path=media.name)
        # A quotient of integers is rounded as a fraction is, for less.
        num, denominator, first = tick.numerator, tick.denominator, self._pts[0]
        self.times_s = [(pts - first) * num / denominator for pts in self._pts]
        span_s = self.times_s[-1]
        header_fps = float(rate) if rate else 0.0
        self.fps = header_fps or ((len(self._pts) - 1) / span_s if span_s > 0 else 1.0)

    def read(self, indices: Sequence[int], *, size: Size) -> dict[int, Picture]:
        """Return the pictures at `indices`, see `FrameReader`."""
        wanted = sorted({self._pts[i] for i in indices})
        pictures = self._collect(wanted, size=size, seek="far" if self._keyframes else "never")
        if len(pictures) < len(wanted) and self._keyframes:
            # Some containers land behind the frame they were asked for.
            pictures = self._collect(wanted, size=size, seek="never")
        return {i: pictures[self._pts[i]] for i in indices if self._pts[i] in pictures}

    def _index_packets(self) -> None:
        """List time stamps without decoding; leaves the list empty where they cannot be trusted."""
        marks = self._media.survey().marks
        if self._stamp_rule == "count":
            return
        stamps = [mark.pts for mark in marks if mark.pts is not None]
        if len(stamps) == len(marks) == len(set(stamps)):
            self._pts = sorted(stamps)
            self._keyframes = sorted(
                mark.pts for mark in marks if mark.is_keyframe and mark.pts is not None
            )
        self.num_damaged = int(self._media.is_cut_off)

    def _index_decoded(self) -> None:
        decoder = TolerantDecoder(self._media)
        clock = self._start_clock()
        self._pts = [clock.stamp(frame) for frame in decoder.video()]
        self.num_damaged = decoder.num_damaged

    def _start_clock(self) -> _Clock:
        return _Clock(self._ticks_per_frame, rule=self._stamp_rule)

    def _collect(
        self, wanted: list[int], *, size: Size, seek: Literal["far", "never"]
    ) -> dict[int, Picture]:
        """Decode the frames at the time stamps `wanted`, ascending; some may be missing."""
        pictures: dict[int, Picture] = {}
        # One for all frames: setting swscale up costs more than converting a small picture.
        converter = VideoReformatter()
        decoder = TolerantDecoder(self._media)
        clock, frames = self._start_clock(), decoder.video()
        position, shape = self._pts[0] - 1, None
        frame: VideoFrame | None = None
        for target in wanted:
            if seek == "far" and self._is_far(position, target):
                clock, frames = self._start_clock(), decoder.video(from_pts=target)
            while position < target:
                frame = next(frames, None)
                if frame is None:
                    return pictures
                position = clock.stamp(frame)
            if frame is not None and position == target:
                shape = shape or _shape_for(frame, size)
                pictures[target] = _to_rgb(
                    frame, shape, converter=converter, interpolated=size is not None
                )
        return pictures

    def _is_far(self, position: int, target: int) -> bool:
        """Whether a key frame lies far enough ahead of `position` to be worth a seek."""
        last_key = bisect_right(self._keyframes, target) - 1
        if last_key < 0:
            return False
        skipped = bisect_right(self._pts, self._keyframes[last_key]) - bisect_right(
            self._pts, position
        )
        return skipped >= MIN_SEEK_FRAMES


class DecordReader:
    """Reads through decord or decord2.

    Args:
        source: a file, or the content of one.
        size: a fixed (height, width) is left to decord, a longest side to Pillow.

    Raises:
        MediaError: decord cannot read the file, e.g. a GIF.
        ConfigError: decord is not installed.
    """

    def __init__(self, source: Source, *, size: Size) -> None:
        try:
            import decord
        except ImportError as error:
            raise ConfigError(
                "reader 'decord' is not installed; pip install decord2, or use reader 'pyav'"
            ) from error

        if not isinstance(source, bytes):
            check_file(Path(source))
        self._source = source
        self._errors = (decord.DECORDError, RuntimeError)
        height, width = size if isinstance(size, tuple) else (-1, -1)
        target = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        try:
            self._video = decord.VideoReader(target, width=width, height=height, num_threads=1)
            stamps = self._video.get_frame_timestamp(range(len(self._video)))
        except self._errors as error:
            raise MediaError(
                "decord cannot read it; reader 'pyav' takes more formats", path=name_of(source)
            ) from error
        if len(stamps) == 0:
            raise MediaError("no frame could be decoded", path=name_of(source))
        self.times_s = [round(float(start), 6) for start in stamps[:, 0]]
        self.fps = float(self._video.get_avg_fps())
        self.num_damaged = 0

    def read(self, indices: Sequence[int], *, size: Size) -> dict[int, Picture]:
        """Return the pictures at `indices`, see `FrameReader`."""
        try:
            frames = self._video.get_batch(list(indices)).asnumpy()
        except self._errors as error:
            raise MediaError(
                "decord cannot decode it; reader 'pyav' passes over damage",
                path=name_of(self._source),
            ) from error
        if isinstance(size, int):
            frames = np.stack([fit(frame, size) for frame in frames])
        return dict(zip(indices, frames, strict=True))


class _Clock:
    """Gives every frame a time stamp, also those that come without one or with a stale one."""

    def __init__(self, ticks_per_frame: int, *, rule: StampRule) -> None:
        self._ticks_per_frame = ticks_per_frame
        self._rule = rule
        self._last: int | None = None

    def stamp(self, frame: VideoFrame) -> int:
        counted = 0 if self._last is None else self._last + self._ticks_per_frame
        is_stale = self._last is not None and frame.pts is not None and frame.pts <= self._last
        if self._rule == "count" or frame.pts is None or is_stale:
            self._last = counted
        else:
            self._last = frame.pts
        return self._last


def _shape_for(frame: VideoFrame, size: Size) -> tuple[int, int]:
    """Return (height, width) as a viewer sees the frame."""
    turned = round(frame.rotation / 90) % 2 == 1
    native = (frame.width, frame.height) if turned else (frame.height, frame.width)
    return size if isinstance(size, tuple) else shrunk_shape(native, max_side=size)


def _to_rgb(
    frame: VideoFrame, shape: tuple[int, int], *, converter: VideoReformatter, interpolated: bool
) -> Picture:
    """Convert, resize and turn a frame upright; one pass of swscale, no full-size copy."""
    turns = round(frame.rotation / 90) % 4
    height, width = shape if turns % 2 == 0 else shape[::-1]
    # Bilinear is what the published decode-and-resize comes nearest to; without a change of size
    # FFmpeg's own default gives decord's bytes.
    method = Interpolation.BILINEAR if interpolated else None
    rgb = converter.reformat(
        frame, width=width, height=height, format="rgb24", interpolation=method, threads=1
    )
    picture = np.asarray(rgb.to_ndarray(), dtype=np.uint8)
    return np.ascontiguousarray(np.rot90(picture, k=turns)) if turns else picture
