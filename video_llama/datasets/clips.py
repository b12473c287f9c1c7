"""Readers of clips, of which the pictures, the own sound or both can be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from video_llama.common.types import MediaItem, MediaKind
from video_llama.datasets.annotations import AnnotationReader


class StreamReader(AnnotationReader):
    """A data set with one clip per sample; a new one writes `records` and `build`."""

    @dataclass(frozen=True)
    class Config(AnnotationReader.Config):
        """Keys of every reader of clips.

        Attributes:
            streams: what of a clip is used: its pictures, its own sound, or both in this order.
        """

        streams: tuple[Literal["video", "audio"], ...] = ("video",)

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.streams or len(set(self.streams)) != len(self.streams):
                raise ValueError(
                    f"streams must name one or more different streams, found {list(self.streams)}"
                )

    config: Config

    @property
    def kinds(self) -> tuple[MediaKind, ...]:
        """The streams of every sample."""
        return self.config.streams

    def clip(self, name: str) -> list[MediaItem]:
        """Name a clip by its path below `media`: one item per stream."""
        path = str(Path(self.config.media, name))
        return [MediaItem(kind=kind, path=path) for kind in self.config.streams]
