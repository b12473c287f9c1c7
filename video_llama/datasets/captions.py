"""Captions of clips and pictures: how their text is cleaned and put into a sample.

With no `prompts` a caption is one assistant message that opens with its media (form `caption`,
Video-LLaMA's stage 1); with prompts it is the answer to one of them, chosen per sample and pass.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from video_llama.common.rng import choose, fold
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.datasets.annotations import AnnotationReader
from video_llama.datasets.base import require_text
from video_llama.datasets.records import Record
from video_llama.processors.captions import blip_caption


class CaptionReader(AnnotationReader):
    """A data set whose rows have the fields `caption` and whatever names the file."""

    @dataclass(frozen=True)
    class Config(AnnotationReader.Config):
        """Keys of every reader of captions.

        Attributes:
            prompts: questions a caption answers; none gives the bare caption.
            cleaning: blip as in LAVIS, none for the text as it stands.
            max_words: words kept by the blip cleaning.
        """

        prompts: tuple[str, ...] = ()
        cleaning: Literal["blip", "none"] = "blip"
        max_words: int = 50

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.max_words < 1:
                raise ValueError(f"max_words must be at least 1, found {self.max_words}")
            if not all(prompt.strip() for prompt in self.prompts):
                raise ValueError("prompts must not hold an empty one; leave the key out for none")

    config: Config

    @abstractmethod
    def media(self, record: Record) -> list[MediaItem]:
        """Name the media of a row.

        Raises:
            MediaError: the row names none.
        """

    def build(self, record: Record, *, seed: int) -> Sample:
        """Turn a row into a caption sample, see `AnnotationReader.build`."""
        caption = require_text(record.fields["caption"], what="the caption", where=record.where)
        if self.config.cleaning == "blip":
            cleaned = blip_caption(caption, max_words=self.config.max_words)
            caption = require_text(cleaned, what=f"the caption {caption!r}", where=record.where)
        media = self.media(record)
        if not self.config.prompts:
            messages = [Message("assistant", [*media, caption])]
            return Sample(key=record.key, messages=messages, form="caption")
        prompt = choose(self.config.prompts, seed=fold(seed, "prompt", record.key))
        messages = [Message("user", [*media, prompt]), Message("assistant", [caption])]
        return Sample(key=record.key, messages=messages, form="caption")
