"""What a file is, judged by its content and never by its name.

Headers are read, and the first frame of a video, which alone knows how it is turned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.common.errors import MediaError
from video_llama.common.types import MediaKind
from video_llama.processors.containers import Source
from video_llama.processors.media_file import MediaFile, TolerantDecoder, opened
from video_llama.processors.pictures import movement_of, open_picture, picture_files

if TYPE_CHECKING:
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class MediaInfo:
    """What a file is, judged by its content.

    Attributes:
        kind: "video" for anything that moves (a GIF, a folder of pictures), "image", or "audio".
        has_video: there are pictures in it.
        has_audio: there is a sound track in it.
        duration_s: length in seconds, None if the container does not say.
        width: of the pictures as shown, in pixels; 0 for sound.
        height: of the pictures as shown, in pixels; 0 for sound.
        fps: mean frames per second, None for pictures and sound.
    """

    kind: MediaKind
    has_video: bool
    has_audio: bool
    duration_s: float | None
    width: int
    height: int
    fps: float | None


def probe(source: Source | MediaFile) -> MediaInfo:
    """Say what a file is by looking into it; its name does not count.

    Args:
        source: a file, open already or not, the content of one, or a folder of pictures.

    Returns:
        Its kind, streams, length and size.

    Raises:
        MediaError: missing, empty or nothing we can read; the supported formats are listed.
    """
    with opened(source) as media:
        content = media.content
        if not isinstance(content, bytes) and Path(content).is_dir():
            info = _probe_picture(picture_files(Path(content))[0])
            return replace(info, kind="video", duration_s=None)
        movement = movement_of(content)
        if movement == "clip":
            return _probe_streams(media)
        return replace(_probe_picture(content), kind="image" if movement == "still" else "video")


def _probe_streams(media: MediaFile) -> MediaInfo:
    video, audio = media.video, media.audio
    if video is None and audio is None:
        raise MediaError("neither pictures nor sound in it", path=media.name)
    width, height = (0, 0) if video is None else _shown_size(media, video)
    duration = media.container.duration
    return MediaInfo(
        kind="audio" if video is None else "video",
        has_video=video is not None,
        has_audio=audio is not None,
        duration_s=None if duration is None else duration / 1e6,
        width=width,
        height=height,
        fps=None if video is None or not video.average_rate else float(video.average_rate),
    )


def _shown_size(media: MediaFile, stream: VideoStream) -> tuple[int, int]:
    """Return (width, height) as a viewer sees them."""
    frame = next(TolerantDecoder(media).video(), None)
    if frame is None or round(frame.rotation / 90) % 2 == 0:
        return stream.width, stream.height
    return stream.height, stream.width


def _probe_picture(source: Source) -> MediaInfo:
    with open_picture(source) as picture:
        width, height = picture.size
    return MediaInfo(
        kind="image",
        has_video=True,
        has_audio=False,
        duration_s=None,
        width=width,
        height=height,
        fps=None,
    )
