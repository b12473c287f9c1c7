"""Opening media files: one place where a file's faults become a `MediaError`.

Knows containers and streams, not what is done with their frames. Files go through PyAV, which
brings its own FFmpeg libraries. Only demuxers of self-contained media are allowed: a playlist or
a subtitle file can neither be read as a clip nor make us open another file or address.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from video_llama.common.errors import MediaError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from av.video.frame import VideoFrame

Source = str | Path | bytes
"""A file, or the content of one."""

SUPPORTED_FORMATS = (
    "video: mp4, mov, mkv, webm, avi, flv, mpeg, ts, wmv, gif; picture: jpg, png, webp, bmp, tiff; "
    "sound: wav, mp3, m4a, aac, flac, ogg, opus; or a folder of pictures"
)

_DEMUXERS = (
    "mov,mp4,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,asf,mxf,dv,nut,"
    "gif,apng,wav,w64,mp3,aac,flac,ogg,aiff,au,caf,amr,ac3,eac3"
)


@contextmanager
def open_container(source: Source) -> Iterator[InputContainer]:
    """Open a media file for demuxing and close it afterwards.

    Args:
        source: a file, or the content of one.

    Yields:
        The open container.

    Raises:
        MediaError: missing, a folder, empty, or not media; the reason says which. Also whatever
            FFmpeg refuses while the container is open.
    """
    name = name_of(source)
    if isinstance(source, bytes):
        if not source:
            raise MediaError("the file is empty (0 bytes)", path=name)
        target: str | io.BytesIO = io.BytesIO(source)
    else:
        check_file(Path(source))
        # Without the scheme FFmpeg would take "concat:a|b" or "http://..." for an address.
        target = f"file:{source}"
    try:
        container = av.open(
            target,
            mode="r",
            options={"format_whitelist": _DEMUXERS},
            # Titles in old encodings are common and none of our business.
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"cannot be opened ({type(error).__name__}): it is no media file, or it was cut off "
            f"before its index was written; supported are {SUPPORTED_FORMATS}",
            path=name,
        ) from error
    try:
        yield container
    except av.FFmpegError as error:
        raise MediaError(f"cannot be read or decoded ({error.strerror})", path=name) from error
    finally:
        container.close()


def name_of(source: Source) -> str:
    """Return how error messages call a source."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)


def check_file(path: Path) -> None:
    """Raise a `MediaError` that names the fault if `path` is no file with content in it."""
    if path.is_dir():
        raise MediaError("this is a folder, expected a media file", path=str(path))
    if not path.exists():
        raise MediaError("no such file", path=str(path))
    if path.stat().st_size == 0:
        raise MediaError("the file is empty (0 bytes)", path=str(path))


def find_video(container: InputContainer) -> VideoStream | None:
    """Return the first stream of pictures we can decode; the cover of a song does not count."""
    for stream in container.streams.video:
        is_cover = stream.disposition & av.stream.Disposition.attached_pic
        if not is_cover and stream.codec_context is not None:
            # Workers of a data loader are parallel already.
            stream.codec_context.thread_count = 1
            return stream
    return None


def find_audio(container: InputContainer) -> AudioStream | None:
    """Return the first stream of sound we can decode, None if there is none."""
    return next((s for s in container.streams.audio if s.codec_context is not None), None)


def zero_pts_s(container: InputContainer) -> Fraction:
    """Return what the container's clock shows at second zero of the file.

    Second zero is the first picture, or the first sample of a file without pictures: so pictures
    and sound of one file share a time axis, wherever its clock starts.
    """
    stream = find_video(container) or find_audio(container)
    if stream is None or stream.start_time is None or stream.time_base is None:
        return Fraction(0)
    return stream.start_time * stream.time_base


class TolerantDecoder:
    """Decodes one stream and passes over packets that are damaged, counting them.

    Attributes:
        num_damaged: packets that could not be read or decoded so far.
    """

    def __init__(self, container: InputContainer) -> None:
        self._container = container
        self.num_damaged = 0

    def video(self, stream: VideoStream) -> Iterator[VideoFrame]:
        """Yield the frames that can be decoded, in the order they are shown."""
        for frame in self._frames(stream):
            if isinstance(frame, av.VideoFrame):
                yield frame

    def audio(self, stream: AudioStream) -> Iterator[AudioFrame]:
        """Yield the blocks of samples that can be decoded."""
        for frame in self._frames(stream):
            if isinstance(frame, av.AudioFrame):
                yield frame

    def _frames(self, stream: VideoStream | AudioStream) -> Iterator[object]:
        for packet in self.packets(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.num_damaged += 1
                continue
            yield from frames

    def packets(self, stream: VideoStream | AudioStream) -> Iterator[av.Packet[Any]]:
        """Yield the stream's packets up to the end or to where the file cannot be read on."""
        packets = self._container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                self.num_damaged += 1
                return
            if packet is None:
                return
            yield packet
