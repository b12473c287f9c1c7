"""Captioned pictures in tars: the mixture of CC3M, CC12M and SBU, and LAION, as img2dataset has it.

A sample is `000000012.jpg` with `000000012.json`, whose `caption` is cleaned as in BLIP. Both were
MiniGPT-4's first stage and have readers in Video-LLaMA, which resamples tars at random and passes
over what it cannot read; here every sample comes once a pass, and faults are counted. Sharma et
al., "Conceptual Captions", 2018; Ordonez et al., "Im2Text", 2011; Schuhmann et al., "LAION-400M",
2021; lists of addresses by Li et al., "BLIP", 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

from video_llama.common.errors import MediaError
from video_llama.common.registry import registry
from video_llama.common.types import MediaKind, Sample
from video_llama.datasets.captions import CaptionKeys, caption_sample, clean
from video_llama.datasets.shard_index import ShardSample
from video_llama.datasets.shards import ShardReader, member_item

PICTURES = ("jpg", "jpeg", "png", "webp")
"""What img2dataset may call a picture; the published tars have jpg."""


class CaptionShards(ShardReader):
    """Captioned pictures in tars."""

    @dataclass(frozen=True)
    class Config(CaptionKeys, ShardReader.Config):
        """Keys of a reader of captions in tars."""

        def __post_init__(self) -> None:
            ShardReader.Config.__post_init__(self)
            CaptionKeys.__post_init__(self)

    config: Config
    where_from = (
        "address lists of BLIP (github.com/salesforce/BLIP, Pre-training datasets), fetched into "
        "tars with img2dataset"
    )

    @property
    def kinds(self) -> tuple[MediaKind, ...]:
        """One picture a sample."""
        return ("image",)

    def build(self, sample: ShardSample, *, seed: int) -> Sample:
        """Turn a picture and its caption into a sample, see `ShardReader.build`."""
        name = next((name for name in PICTURES if name in sample.members), None)
        if name is None:
            raise MediaError("holds no picture (jpg)", path=sample.where)
        caption = clean(sample.fields.get("caption"), keys=self.config, where=sample.where)
        return caption_sample(
            self.key_of(sample),
            caption=caption,
            media=[member_item(sample, name)],
            keys=self.config,
            seed=seed,
        )


@registry.register_dataset("cc_sbu")
class CcSbu(CaptionShards):
    """CC3M, CC12M and SBU, in tars."""

    @dataclass(frozen=True)
    class Config(CaptionShards.Config):
        """Keys of a cc_sbu entry."""

    config: Config


@registry.register_dataset("laion")
class Laion(CaptionShards):
    """LAION, in tars."""

    @dataclass(frozen=True)
    class Config(CaptionShards.Config):
        """Keys of a laion entry."""

    config: Config
