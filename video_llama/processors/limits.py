"""What is refused before it is decoded: too many bytes, pixels or seconds.

Judged by sizes, headers and packets, also of files whose header is silent or lies about its length.
What a decoder makes of a file after that is bounded in the child it runs in, see `supervised`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.errors import MediaError
from video_llama.processors.containers import check_file
from video_llama.processors.media_file import MediaFile
from video_llama.processors.pictures import (
    is_folder,
    movement_of,
    open_picture,
    picture_files,
)
from video_llama.processors.probe import length_s


@dataclass(frozen=True)
class MediaLimits:
    """What is refused before it is decoded; None is no limit.

    Attributes:
        max_duration_s: longest clip or sound in seconds, or span of one if a span is chosen.
        max_pixels: largest picture or frame, width times height.
        max_bytes: largest file, or folder of pictures in all.
    """

    max_duration_s: float | None = None
    max_pixels: int | None = None
    max_bytes: int | None = None

    def check(
        self, media: MediaFile, *, start_s: float | None = None, end_s: float | None = None
    ) -> None:
        """Refuse what is beyond the limits; nothing is decoded.

        Args:
            media: the file, the content of one, or a folder of pictures.
            start_s: first second that will be used.
            end_s: last second that will be used.

        Raises:
            MediaError: it is too large, or cannot be opened.
        """
        self.check_bytes(media)
        if self.max_pixels is not None:
            for width, height in _declared_sizes(media):
                if width * height > self.max_pixels:
                    raise MediaError(
                        f"{width} x {height} pixels, at most {self.max_pixels} are allowed; "
                        "make it smaller first",
                        path=media.name,
                    )
        if self.max_duration_s is not None:
            self._check_length(media, (start_s, end_s), self.max_duration_s)

    def check_content(self, content: bytes, *, name: str) -> None:
        """Refuse content that is too long to be looked at; see `check`."""
        if self.max_bytes is not None and len(content) > self.max_bytes:
            raise _too_large(len(content), self.max_bytes, name)

    def check_bytes(self, media: MediaFile) -> None:
        """Refuse a file that is too large to be looked at; see `check`."""
        most, source = self.max_bytes, media.source
        if most is None:
            return None
        if isinstance(source, bytes):
            return self.check_content(source, name=media.name)
        try:
            if is_folder(source):
                size = sum(path.stat().st_size for path in picture_files(Path(source)))
            else:
                check_file(Path(source))
                size = Path(source).stat().st_size
        except OSError as error:
            raise MediaError(f"cannot be read ({error.strerror})", path=media.name) from error
        if size > most:
            raise _too_large(size, most, media.name)
        return None

    def _check_length(
        self, media: MediaFile, span: tuple[float | None, float | None], longest_s: float
    ) -> None:
        start_s, end_s = span
        latest_s = (start_s or 0.0) + longest_s
        if end_s is not None and end_s <= latest_s:
            return
        whole_s = length_s(media, give_up_s=latest_s)
        if whole_s is not None and whole_s > latest_s:
            raise MediaError(
                f"longer than the {longest_s:g} s that are allowed; cut it first, or choose a "
                "start and an end",
                path=media.name,
            )


UPLOAD_LIMITS = MediaLimits(max_duration_s=3600.0, max_pixels=8192 * 8192, max_bytes=1 << 30)
"""Of what strangers hand over to a server: an hour, 67 million pixels, one GiB."""


def _declared_sizes(media: MediaFile) -> Iterator[tuple[int, int]]:
    """Yield width and height as headers tell them."""
    source = media.source
    if is_folder(source):
        for path in picture_files(Path(source)):
            with open_picture(path) as picture:
                yield picture.size
    elif movement_of(media.content) == "clip":
        if media.video is not None:
            yield media.video.width, media.video.height
    else:
        with open_picture(media.content) as picture:
            yield picture.size


def _too_large(size: int, most: int, name: str) -> MediaError:
    return MediaError(
        f"{size / 2**20:.1f} MiB, at most {most / 2**20:g} MiB are allowed; make it smaller first",
        path=name,
    )
