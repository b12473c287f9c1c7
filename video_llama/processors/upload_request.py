"""What a person hands over to be seen and heard, and what of it is wanted; nothing is read here."""

from __future__ import annotations

from dataclasses import dataclass, field

from video_llama.common.errors import ConfigError

LARGEST = 1e9
"""Seconds, or frames a second, beyond which nothing is meant."""


@dataclass(frozen=True)
class UploadRequest:
    """What a person hands over, and what of it is wanted.

    Attributes:
        source: path of a file or of a folder of frames, or a label if there is `data`.
        data: the content of a file.
        start_s: first second to use, None for the beginning.
        end_s: last second to use, None for the end.
        frames: frames of a clip, None for as many as the model was trained with.
        fps: frames a second of the chosen span in place of `frames`; of a folder of frames, how
            many of them are shown a second.
        sound: false leaves the sound track of a clip out; a sound alone is heard anyway.

    Raises:
        ConfigError: no path, or a number that means nothing.
    """

    source: str
    data: bytes | None = field(default=None, repr=False)
    start_s: float | None = None
    end_s: float | None = None
    frames: int | None = None
    fps: float | None = None
    sound: bool = True

    def __post_init__(self) -> None:
        problems = []
        if not self.source and self.data is None:
            problems.append("source: empty, expected the path of a file or of a folder of frames")
        for name in ("start_s", "end_s", "fps"):
            value = getattr(self, name)
            if value is not None and not _is_number(value):
                problems.append(f"{name}: {value}, expected a number from 0 to {LARGEST:g}")
        if self.fps == 0:
            problems.append("fps: 0, expected a number above 0")
        if self.frames is not None and not (isinstance(self.frames, int) and self.frames >= 1):
            problems.append(f"frames: {self.frames}, expected a whole number of at least 1")
        if self.end_s is not None and not problems and self.end_s <= (self.start_s or 0.0):
            problems.append(f"end_s: {self.end_s:g}, expected more than start_s")
        if problems:
            raise ConfigError(problems)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= LARGEST
