"""A media file that PyAV opens once, however much is read from it.

Pictures, sound, limits and identity of a clip come from the same open container. Packets of a
short stream are kept from the first reading on; a long one is read again, or jumped into, but not
opened again. Decord and Pillow open the file for themselves. Which frames and samples are wanted is
decided in `video` and `audio`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import av

from video_llama.processors.containers import (
    Source,
    faults_named,
    find_audio,
    find_video,
    hold,
    name_of,
    open_container,
)
from video_llama.processors.pictures import FOLDER_FPS
from video_llama.processors.survey import StreamKind, Survey, key_before

if TYPE_CHECKING:
    from types import TracebackType

    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

REWINDABLE = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
"""Formats whose index leads back to their very first picture; others have to be opened again."""

_LONG_BEFORE = -(1 << 40)


@dataclass(frozen=True)
class _Opened:
    container: InputContainer
    video: VideoStream | None
    audio: AudioStream | None


class MediaFile:
    """A container with its first streams of pictures and sound, opened when first asked for.

    Args:
        source: a file, or the content of one.
        folder_fps: pictures a second, if it is a folder of them.

    Attributes:
        source: as given.
        folder_fps: likewise.
        name: for errors.
        is_cut_off: it could not be read to its end.
    """

    def __init__(self, source: Source, *, folder_fps: float = FOLDER_FPS) -> None:
        self.source = source
        self.folder_fps = folder_fps
        self.name = name_of(source)
        self.is_cut_off = False
        self._opened: _Opened | None = None
        self._survey: Survey | None = None
        self._has_moved = False

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the container; it is opened again if something more is asked for."""
        if self._opened is not None:
            self._opened.container.close()
        self._opened, self._has_moved = None, False

    @cached_property
    def content(self) -> Source:
        """The bytes of a short file, read once, or the path of a long one; see `hold`."""
        return hold(self.source)

    @property
    def container(self) -> InputContainer:
        """The open container.

        Raises:
            MediaError: not media.
        """
        return self._open().container

    @property
    def video(self) -> VideoStream | None:
        """The stream of pictures, if there is one."""
        return self._open().video

    @property
    def audio(self) -> AudioStream | None:
        """The stream of sound, if there is one."""
        return self._open().audio

    def _open(self) -> _Opened:
        if self._opened is None:
            container = open_container(self.content, name=self.name)
            self._opened = _Opened(container, find_video(container), find_audio(container))
        return self._opened

    def survey(self, *, give_up_s: float = math.inf) -> Survey:
        """Read the file from end to end, once, without decoding.

        Args:
            give_up_s: length of sound after which it is not read on, for who refuses it then.
        """
        if self._survey is not None:
            return self._survey
        survey = self._read_all(give_up_s)
        if survey.sound_s <= give_up_s:
            self._survey = survey
        return survey

    def packets(self, kind: StreamKind, *, from_pts: int | None = None) -> Iterator[av.Packet[Any]]:
        """Yield the packets of a stream up to the end or to where the file cannot be read on.

        Args:
            kind: of the stream, which is there.
            from_pts: where to begin, in its time base; packets that this one builds upon come
                first. None for the beginning.
        """
        if self._survey is None and isinstance(self.content, bytes):
            self.survey()
        kept = self._survey.kept.get(kind) if self._survey is not None else None
        # Where a container lands in its sound decides the last bits of the first samples.
        if kept is None or (kind == "audio" and from_pts is not None):
            self._go_to(kind, from_pts)
            yield from self._read(kind)
        else:
            self._stream(kind).codec_context.flush_buffers()
            yield from kept[key_before(kept, from_pts) :]

    def _stream(self, kind: StreamKind) -> VideoStream | AudioStream:
        stream = self.video if kind == "video" else self.audio
        assert stream is not None
        return stream

    def _read_all(self, give_up_s: float) -> Survey:
        kinds: list[StreamKind] = ["video"] if self.video is not None else []
        kinds += ["audio"] if self.audio is not None else []
        # Of both streams, only a file just opened is sure to give the very first packets.
        self._go_to(kinds[-1], None)
        kind_of = {self._stream(kind).index: kind for kind in kinds}
        survey = Survey(kept={kind: [] for kind in kinds})
        for packet in self._read(*kinds):
            survey.add(packet, kind=kind_of[packet.stream.index])
            if survey.sound_s > give_up_s:
                break
        return survey

    def _read(self, *kinds: StreamKind) -> Iterator[av.Packet[Any]]:
        """Yield packets from where the container stands."""
        packets = self.container.demux([self._stream(kind) for kind in kinds])
        self._has_moved = True
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                self.is_cut_off = True
                return
            except IndexError:
                # All is read: PyAV may stumble at the end over a stream that set in after the
                # header, as in damaged MPEG-TS.
                return
            if packet is None:
                return
            yield packet

    def _go_to(self, kind: StreamKind, pts: int | None) -> None:
        """Bring the container to a time stamp of a stream, or to its beginning."""
        if pts is not None:
            self.container.seek(pts, stream=self._stream(kind))
        elif self._has_moved and kind == "video" and self.container.format.name in REWINDABLE:
            self.container.seek(_LONG_BEFORE, stream=self._stream(kind))
        elif self._has_moved:
            self.close()


class TolerantDecoder:
    """Decodes streams of a file and passes over packets that are damaged, counting them.

    Args:
        media: the file.
    """

    def __init__(self, media: MediaFile) -> None:
        self._media = media
        self._num_refused = 0

    @property
    def num_damaged(self) -> int:
        """Packets that could not be read or decoded so far."""
        return self._num_refused + self._media.is_cut_off

    def video(self, *, from_pts: int | None = None) -> Iterator[VideoFrame]:
        """Yield the frames that can be decoded, in the order they are shown."""
        for frame in self._frames("video", from_pts):
            if isinstance(frame, av.VideoFrame):
                yield frame

    def audio(self, *, from_pts: int | None = None) -> Iterator[AudioFrame]:
        """Yield the blocks of samples that can be decoded."""
        for frame in self._frames("audio", from_pts):
            if isinstance(frame, av.AudioFrame):
                yield frame

    def _frames(self, kind: StreamKind, from_pts: int | None) -> Iterator[object]:
        for packet in self._media.packets(kind, from_pts=from_pts):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._num_refused += 1
                continue
            yield from frames


@contextmanager
def opened(source: Source | MediaFile) -> Iterator[MediaFile]:
    """Yield the file, and close it afterwards if it was not open before; FFmpeg's faults get names.

    Raises:
        MediaError: whatever FFmpeg refuses inside the block.
    """
    media = source if isinstance(source, MediaFile) else MediaFile(source)
    try:
        with faults_named(media.name):
            yield media
    finally:
        if media is not source:
            media.close()


def zero_pts_s(media: MediaFile) -> Fraction:
    """Return what the container's clock shows at second zero of the file.

    Second zero is the first picture, or the first sample of a file without pictures: so pictures
    and sound of one file share a time axis, wherever its clock starts.
    """
    stream = media.video or media.audio
    if stream is None or stream.start_time is None or stream.time_base is None:
        return Fraction(0)
    return stream.start_time * stream.time_base
