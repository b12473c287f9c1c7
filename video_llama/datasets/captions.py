"""Captions of clips and pictures: how their text is cleaned and put into a sample.

With no `prompts` a caption is one assistant message that opens with its media (form `caption`,
Video-LLaMA's stage 1); with prompts it is the answer to one of them, chosen per sample and pass.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from video_llama.common.rng import choose, fold
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.datasets.annotations import AnnotationReader
from video_llama.datasets.base import require_text
from video_llama.datasets.records import Record
from video_llama.processors.captions import blip_caption


@dataclass(frozen=True, kw_only=True)
class CaptionKeys:
    """Keys of every reader of captions, whatever the captions are read from.

    Attributes:
        prompts: questions a caption answers; none gives the bare caption.
        cleaning: blip as in LAVIS, none for the text as it stands.
        max_words: words kept by the blip cleaning.
    """

    prompts: tuple[str, ...] = ()
    cleaning: Literal["blip", "none"] = "blip"
    max_words: int = 50

    def __post_init__(self) -> None:
        if self.max_words < 1:
            raise ValueError(f"max_words must be at least 1, found {self.max_words}")
        if not all(prompt.strip() for prompt in self.prompts):
            raise ValueError("prompts must not hold an empty one; leave the key out for none")


class CaptionReader(AnnotationReader):
    """A data set whose rows have the fields `caption` and whatever names the file."""

    @dataclass(frozen=True)
    class Config(CaptionKeys, AnnotationReader.Config):
        """Keys of a reader of captions in annotation files."""

        def __post_init__(self) -> None:
            AnnotationReader.Config.__post_init__(self)
            CaptionKeys.__post_init__(self)

    config: Config

    @abstractmethod
    def media(self, record: Record) -> list[MediaItem]:
        """Name the media of a row.

        Raises:
            MediaError: the row names none.
        """

    def build(self, record: Record, *, seed: int) -> Sample:
        """Turn a row into a caption sample, see `AnnotationReader.build`."""
        caption = clean(record.fields["caption"], keys=self.config, where=record.where)
        return caption_sample(
            record.key, caption=caption, media=self.media(record), keys=self.config, seed=seed
        )


def clean(caption: object, *, keys: CaptionKeys, where: str) -> str:
    """Return a caption as it will be trained on.

    Raises:
        MediaError: nothing is left of it.
    """
    text = require_text(caption, what="the caption", where=where)
    if keys.cleaning == "none":
        return text
    cleaned = blip_caption(text, max_words=keys.max_words)
    return require_text(cleaned, what=f"the caption {text!r}", where=where)


def caption_sample(
    key: str, *, caption: str, media: Sequence[MediaItem], keys: CaptionKeys, seed: int
) -> Sample:
    """Put a caption and its media into a sample; a prompt, if there are any, is drawn by `seed`."""
    if not keys.prompts:
        return Sample(key=key, messages=[Message("assistant", [*media, caption])], form="caption")
    prompt = choose(keys.prompts, seed=fold(seed, "prompt", key))
    messages = [Message("user", [*media, prompt]), Message("assistant", [caption])]
    return Sample(key=key, messages=messages, form="caption")
