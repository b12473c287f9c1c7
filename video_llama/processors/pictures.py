"""Still pictures, alone or in a folder, read through Pillow; and the sizes pictures are given.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, features

from video_llama.common.errors import MediaError
from video_llama.processors.containers import SUPPORTED_FORMATS, Source, check_file, name_of

Picture = NDArray[np.uint8]
"""uint8[H, W, 3], red, green, blue."""

Size = tuple[int, int] | int | None
"""(height, width): squash to it; a number: shrink until the longer side fits; None: as it is."""

_PILLOW_FAULTS = (
    OSError,
    ValueError,
    SyntaxError,
    IndexError,
    KeyError,
    TypeError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow's parsers raise on damaged files; it has no base class for them."""

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""What counts as a frame in a folder; a single file is judged by its content instead."""

PICTURE_FORMATS = (
    *("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000"),
    *(("AVIF",) if features.check("avif") else ()),
)
"""What Pillow may open; it knows more, some of which start other programs (EPS, WMF)."""

Movement = Literal["still", "animation", "clip"]
"""A picture; pictures that only Pillow can play; whatever is left to FFmpeg."""

_MOVEMENTS: Mapping[str, Movement] = {"GIF": "clip", "PNG": "clip", "WEBP": "animation"}

UNTIMED_S = 0.1
"""How long browsers show a picture of an animation that does not say."""

FOLDER_FPS = 3.0
"""Frame rate of a folder of pictures: TVQA's release, which MVBench uses, has 3 a second."""


def read_picture(source: Source) -> Picture:
    """Read a picture, upright as its EXIF says; the first one of an animation.

    Args:
        source: a file, or the content of one.

    Returns:
        uint8[H, W, 3].

    Raises:
        MediaError: missing, a folder, empty, damaged, or no picture.
    """
    try:
        with open_picture(source) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except MediaError:
        raise
    except _PILLOW_FAULTS as error:
        raise MediaError(
            f"the picture is damaged or cut off ({error})", path=name_of(source)
        ) from error


def open_picture(source: Source) -> Image.Image:
    """Open a picture without decoding it.

    Raises:
        MediaError: missing, a folder, empty, no picture, or one of absurd size.
    """
    if not isinstance(source, bytes):
        check_file(Path(source))
    target = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return Image.open(target, formats=PICTURE_FORMATS)
    except Image.DecompressionBombError as error:
        raise MediaError(
            f"the picture is too large to be unpacked ({error})", path=name_of(source)
        ) from error
    except _PILLOW_FAULTS as error:
        raise MediaError(
            f"no picture Pillow can read; supported are {SUPPORTED_FORMATS}", path=name_of(source)
        ) from error


def movement_of(source: Source) -> Movement:
    """Say whether and by what a file moves, judged by its content.

    Raises:
        MediaError: missing, a folder, empty, or a picture of absurd size.
    """
    if not isinstance(source, bytes):
        check_file(Path(source))
    try:
        with open_picture(source) as picture:
            # Phones and scanners store several pictures in one file; only these formats play them.
            movement = _MOVEMENTS.get(picture.format or "", "still")
            moves = movement != "still" and getattr(picture, "is_animated", False)
            return movement if moves else "still"
    except _PILLOW_FAULTS as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise
        return "clip"


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of the numbers in their names.

    Raises:
        MediaError: there is none.
    """
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", path=str(folder)) from error
    files = [path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES]
    if not files:
        raise MediaError(
            f"a folder without pictures: looked for {', '.join(sorted(PICTURE_SUFFIXES))}, "
            f"there is {_names_of(paths)}",
            path=str(folder),
        )
    return sorted(files, key=_by_number)


def is_folder(source: Source) -> TypeGuard[str | Path]:
    """Whether a source is a folder, of pictures as we hope."""
    try:
        return not isinstance(source, bytes) and Path(source).is_dir()
    except OSError:
        # A name no disk takes; whoever opens it says so.
        return False


def animation_s(source: Source) -> float:
    """Return how long an animated WebP lasts, without decoding it.

    Raises:
        MediaError: the file cannot be read.
    """
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", path=name_of(source)) from error
    # A RIFF file: chunks of a name, a length, and content padded to an even number of bytes.
    length_s, at = 0.0, 12
    while at + 24 <= len(content):
        if content[at : at + 4] == b"ANMF":
            length_s += int.from_bytes(content[at + 20 : at + 23], "little") / 1000 or UNTIMED_S
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return length_s


def shrunk_shape(shape: tuple[int, int], *, max_side: int | None) -> tuple[int, int]:
    """Return (height, width) scaled down, never up, so that the longer side fits."""
    longest = max(shape)
    if max_side is None or longest <= max_side:
        return shape
    height, width = (max(1, round(side * max_side / longest)) for side in shape)
    return height, width


def fit(
    picture: Picture, size: Size, *, method: Image.Resampling = Image.Resampling.BICUBIC
) -> Picture:
    """Resize a picture with Pillow, which smooths when it shrinks.

    Args:
        picture: uint8[H, W, 3].
        size: see `Size`.
        method: Pillow's resampling filter.

    Returns:
        uint8[height, width, 3].
    """
    height, width = picture.shape[:2]
    target = size if isinstance(size, tuple) else shrunk_shape((height, width), max_side=size)
    if target == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize(target[::-1], method))


class PictureReader:
    """Reads one picture, or a folder of pictures, as if it were a video.

    Args:
        source: a picture, the content of one, or a folder.
        fps: pictures a second of a folder.

    Raises:
        MediaError: a folder without pictures.
    """

    def __init__(self, source: Source, *, fps: float = FOLDER_FPS) -> None:
        self._sources: Sequence[Source] = [source]
        if is_folder(source):
            self._sources = picture_files(Path(source))
        self.fps = fps
        self.times_s = [i / self.fps for i in range(len(self._sources))]
        self.num_damaged = 0

    def read(self, indices: Sequence[int], *, size: Size) -> dict[int, Picture]:
        """Return the pictures at `indices`, all of the first one's size."""
        pictures: dict[int, Picture] = {}
        for i in sorted(set(indices)):
            pictures[i] = fit(read_picture(self._sources[i]), size)
            # Pictures of one folder may differ in size; a clip has one.
            height, width = pictures[i].shape[:2]
            size = (height, width)
        return pictures


class AnimationReader:
    """Reads an animation through Pillow, up to where it is damaged.

    Args:
        source: an animation, or the content of one.
        name: of the file, for errors.

    Raises:
        MediaError: not one picture can be decoded.
    """

    def __init__(self, source: Source, *, name: str) -> None:
        self._source = source
        self.num_damaged = 0
        self.times_s: list[float] = []
        end_s = 0.0
        for picture in self._pictures():
            self.times_s.append(end_s)
            end_s += picture.info.get("duration", 0) / 1000 or UNTIMED_S
        if not self.times_s:
            raise MediaError("not one picture of the animation can be decoded", path=name)
        self.fps = len(self.times_s) / end_s

    def read(self, indices: Sequence[int], *, size: Size) -> dict[int, Picture]:
        """Return the pictures at `indices`."""
        wanted = frozenset(indices)
        return {
            i: fit(np.asarray(picture.convert("RGB")), size)
            for i, picture in enumerate(self._pictures())
            if i in wanted
        }

    def _pictures(self) -> Iterator[Image.Image]:
        try:
            with open_picture(self._source) as animation:
                for picture in ImageSequence.Iterator(animation):
                    picture.load()
                    yield picture
        except _PILLOW_FAULTS:
            self.num_damaged = 1


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sort key under which frame_10 comes after frame_9."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _names_of(paths: Sequence[Path]) -> str:
    """Say what is in a folder, at some length."""
    if not paths:
        return "nothing"
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in paths)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
