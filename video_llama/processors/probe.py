"""What a file is, judged by its content and never by its name.

Headers are read, and the first frame of a video, which alone knows how it is turned. How long a
file is, is asked apart, for where its header does not say it is read to the end.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.common.errors import MediaError
from video_llama.common.types import MediaKind
from video_llama.processors.containers import Source
from video_llama.processors.media_file import MediaFile, TolerantDecoder, opened
from video_llama.processors.pictures import (
    animation_s,
    is_folder,
    movement_of,
    open_picture,
    picture_files,
)
from video_llama.processors.readings import MediaInfo
from video_llama.processors.survey import FORMATS_WITHOUT_STAMPS, Survey

if TYPE_CHECKING:
    from av.video.stream import VideoStream


AGREED_S, AGREED_SHARE = 0.25, 0.01
"""How far a header and its packets may be apart."""


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
        source = media.source
        if is_folder(source):
            info = _probe_picture(picture_files(Path(source))[0])
            return replace(info, kind="video", duration_s=None)
        try:
            return _probe_file(media)
        except MediaError as error:
            # Who looks at the content alone does not know what it is called.
            raise MediaError(error.reason, path=media.name) from error


def length_s(media: MediaFile, *, give_up_s: float = math.inf) -> float | None:
    """Return how long a file is, without decoding it.

    Args:
        media: the file, the content of one, or a folder of pictures.
        give_up_s: it is not read on beyond this length.

    Returns:
        Seconds, by the header if the packets agree, else by the packets; something beyond
        `give_up_s` if it was given up. None for a picture.

    Raises:
        MediaError: missing, empty, or no media.
    """
    source = media.source
    if is_folder(source):
        return len(picture_files(Path(source))) / media.folder_fps
    movement = movement_of(media.content)
    if movement != "clip":
        return animation_s(media.content) if movement == "animation" else None
    with opened(media):
        if media.video is None and media.audio is None:
            return None
        header_s = (media.container.duration or 0) / 1e6
        survey = media.survey(give_up_s=give_up_s)
        found_s = max(survey.sound_s, _shown_s(media, survey))
    # Packets of sound hold the codec's padding too.
    agreed = not found_s or abs(found_s - header_s) <= max(AGREED_S, AGREED_SHARE * header_s)
    return (header_s if agreed else found_s) or None


def _probe_file(media: MediaFile) -> MediaInfo:
    """Say what a file is that is no folder."""
    movement = movement_of(media.content)
    if movement == "clip":
        return _probe_streams(media)
    kind: MediaKind = "image" if movement == "still" else "video"
    return replace(_probe_picture(media.content), kind=kind)


def _shown_s(media: MediaFile, survey: Survey) -> float:
    """Return the seconds from the first picture to the last one's end."""
    stream = media.video
    if stream is None or not survey.marks:
        return 0.0
    rate = stream.average_rate or stream.guessed_rate
    picture_s = float(1 / rate) if rate else 0.0
    stamps = [mark.pts for mark in survey.marks if mark.pts is not None]
    if media.container.format.name in FORMATS_WITHOUT_STAMPS or not stamps:
        return picture_s * len(survey.marks)
    tick_s = float(stream.time_base or 0)
    last, until = max(stamps), survey.last_pts or 0
    return (max(last, until) - min(stamps)) * tick_s + (picture_s if until <= last else 0.0)


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
