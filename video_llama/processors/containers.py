"""Opening media files: one place where a file's faults become a `MediaError`.

Knows containers and streams, not what is done with their frames. Files go through PyAV, which
brings its own FFmpeg libraries. Only demuxers of self-contained media are allowed: a playlist or
a subtitle file can neither be read as a clip nor make us open another file or address.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from video_llama.common.errors import MediaError

if TYPE_CHECKING:
    from av.container import InputContainer

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


HELD_BYTES = 32 << 20
"""A file of at most so many bytes is read into memory at once."""


def hold(source: Source) -> Source:
    """Return the content of a file if it is short, else the source as it is.

    A held file is read from its disk once, whatever is wanted from it.

    Raises:
        MediaError: missing, empty, or not to be read.
    """
    if isinstance(source, bytes):
        return source
    path = Path(source)
    try:
        if path.is_dir():
            return source
        check_file(path)
        return path.read_bytes() if path.stat().st_size <= HELD_BYTES else source
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", path=str(path)) from error


def open_container(source: Source, *, name: str) -> InputContainer:
    """Open a media file for demuxing.

    Args:
        source: a file, or the content of one.
        name: of the file, for errors; an ending may tell FFmpeg what the content leaves open.

    Returns:
        The open container, to be closed.

    Raises:
        MediaError: missing, a folder, empty, or not media; the reason says which.
    """
    if isinstance(source, bytes):
        if not source:
            raise MediaError("the file is empty (0 bytes)", path=name)
        target: str | io.BytesIO = _NamedBuffer(source, name=name)
    else:
        check_file(Path(source))
        # Without the scheme FFmpeg would take "concat:a|b" or "http://..." for an address.
        target = f"file:{source}"
    try:
        return av.open(
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


class _NamedBuffer(io.BytesIO):
    """The content of a file under its name."""

    def __init__(self, content: bytes, *, name: str) -> None:
        super().__init__(content)
        self.name = f"file:{name}"


@contextmanager
def faults_named(name: str) -> Iterator[None]:
    """Turn whatever FFmpeg refuses inside the block into a `MediaError` that names the file."""
    try:
        yield
    except av.FFmpegError as error:
        raise MediaError(f"cannot be read or decoded ({error.strerror})", path=name) from error


def name_of(source: Source) -> str:
    """Return how error messages call a source."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)


def check_file(path: Path) -> None:
    """Raise a `MediaError` that names the fault if `path` is no file with content in it.

    Pipes and devices are refused without being opened: reading one may never end.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise MediaError("no such file", path=str(path)) from error
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", path=str(path)) from error
    if stat.S_ISDIR(found.st_mode):
        raise MediaError("this is a folder, expected a media file", path=str(path))
    if not stat.S_ISREG(found.st_mode):
        raise MediaError("this is a pipe or a device, expected a media file", path=str(path))
    if found.st_size == 0:
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
