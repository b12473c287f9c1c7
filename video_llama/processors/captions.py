"""How the text of a caption is cleaned, under LAVIS's name for it.

Source: LAVIS, processors/blip_processors.py (BlipCaptionProcessor), as Video-LLaMA uses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from video_llama.common.parsing import parsed
from video_llama.common.registry import registry


def blip_caption(caption: str, *, max_words: int = 50) -> str:
    """Clean a caption as BLIP's training does.

    Lower case; each of . ! " ( ) * # : ; ~ becomes a space; two and more white characters become
    one space, while a lone tab stays; the first `max_words` words between spaces are kept.
    """
    text = re.sub(r"[.!\"()*#:;~]", " ", caption.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


@registry.register_processor("blip_caption")
class BlipCaption:
    """Cleans captions.

    Args:
        config: prompt and length.
    """

    @dataclass(frozen=True)
    class Config:
        """Keys of the published processor.

        Attributes:
            prompt: put in front of the caption.
            max_words: words of a caption that are kept.
        """

        prompt: str = ""
        max_words: int = 50

    def __init__(self, config: Config) -> None:
        self.config = config

    @classmethod
    def from_config(cls, node: Mapping[str, Any] | None = None) -> BlipCaption:
        """Build the processor from a mapping; its key `name` is passed over.

        Raises:
            ConfigError: a key is unknown or has the wrong type.
        """
        return cls(parsed(cls.Config, node, where="blip_caption"))

    def __call__(self, caption: str) -> str:
        """Return the prompt and the cleaned caption."""
        return self.config.prompt + blip_caption(caption, max_words=self.config.max_words)
