"""What was found in a file and read of it, as plain data that may pass between processes.

Only classes are defined here: a process believes another one that sends them, see `wire`.
"""

from __future__ import annotations

from dataclasses import dataclass

from video_llama.common.types import MediaItem, MediaKind


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


@dataclass(frozen=True)
class Reading:
    """What was read of an upload; see `uploads`.

    Attributes:
        info: what the file is, with its length if there is a way to know.
        items: pictures first, then sound.
        branches: names of the branches of the items.
        num_frames: most frames of a clip, None for the branch's own number.
        notes: what was left out and why.
    """

    info: MediaInfo
    items: tuple[MediaItem, ...]
    branches: tuple[str, ...]
    num_frames: int | None
    notes: tuple[str, ...]

    def is_sound(self) -> bool:
        """Whether it is what its annotations say, wherever it comes from."""
        return (
            isinstance(self.info, MediaInfo)
            and _all(MediaItem, self.items)
            and _all(str, self.branches)
            and _all(str, self.notes)
            and isinstance(self.num_frames, int | None)
            and len(self.items) == len(self.branches)
        )


def _all(kind: type, values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, kind) for value in values)
