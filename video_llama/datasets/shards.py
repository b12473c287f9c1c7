r"""Data sets that lie in tars: any of ours packed by `video-llama shards write`, or like it.

A sample is a json and its media, `000000012.json` and `000000012.0.mp4`, the json a row of
`messages` whose files are named by what follows the first dot:

    {"id": "page/12", "messages": [{"role": "user", "content": [
        {"type": "video", "video": "0.mp4"}, {"type": "text", "text": "What happens?"}]}, ...]}

Samples come in an order of position like all others, but shard by shard, see `blocks`; none is
read that is not used. The tars of cc_sbu and laion are read in `caption_shards`.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.registry import registry
from video_llama.common.types import Form, MediaItem, Sample
from video_llama.datasets.base import DatasetReader
from video_llama.datasets.blocks import Blocks
from video_llama.datasets.conversations import BadRow, read_turns
from video_llama.datasets.messages import form_of, messages_of
from video_llama.datasets.shard_index import ShardSample, read_header
from video_llama.datasets.shard_set import ShardSet, expand, prepare
from video_llama.processors.shard_files import MAX_SPOOLED


class ShardReader(DatasetReader):
    """A data set in tars; a new one writes `build` and `kinds`."""

    @dataclass(frozen=True)
    class Config(DatasetReader.Config):
        """Keys of every reader of shards.

        Attributes:
            shards: brace pattern of paths or addresses, `pipe:` command, or folder of tars.
            window: shards that are shuffled into one another; so many are open at a time.
            index: folder for indexes, null for beside the shards or the user's cache.
        """

        shards: str
        window: int = 4
        index: str | None = None

        def __post_init__(self) -> None:
            super().__post_init__()
            # A window that does not fit the spool would be fetched anew for every sample.
            if not 1 <= self.window <= MAX_SPOOLED // 2:
                raise ValueError(f"window must be 1 .. {MAX_SPOOLED // 2}, found {self.window}")

    config: Config

    def __init__(self, config: Config, *, name: str) -> None:
        super().__init__(config, name=name)
        self._set: ShardSet | None = None

    @abstractmethod
    def build(self, sample: ShardSample, *, seed: int) -> Sample:
        """Turn what an index says of a sample into one whose media are not loaded.

        Args:
            sample: of the index.
            seed: for choices between several readings of it.

        Raises:
            MediaError: this one sample cannot be used.
        """

    def key_of(self, sample: ShardSample) -> str:
        """Return the key of a sample; those of tars are unique in their shard alone."""
        return f"{Path(sample.shard).stem}/{sample.key}"

    @property
    def blocks(self) -> Blocks:
        """The shards."""
        return self._shards().blocks

    def __len__(self) -> int:
        return len(self._shards())

    def sample(self, index: int, *, seed: int = 0) -> Sample:
        """Return a sample, see `DatasetReader.sample`."""
        sample = self.build(self._shards()[index], seed=seed)
        sample.dataset = self.name
        return sample

    def key(self, index: int) -> str:
        """Return the key of a sample, also of one that cannot be used."""
        return self.key_of(self._shards()[index])

    def fingerprint(self) -> str:
        """Return a hash of the shards' checksums and of how they are read."""
        how = replace(self.config, shards="", index=None, window=1)
        digest = hashlib.blake2b(repr([type(self).__qualname__, how]).encode(), digest_size=16)
        for shard in self._shards().shards:
            digest.update(read_header(shard.index).sha256.encode())
        return digest.hexdigest()

    def missing(self) -> list[str]:
        """Look whether every shard is there and fits its index; indexes are made on the way."""
        try:
            self._shards()
        except ConfigError as error:
            return [f"datasets.{self.name}.shards: {problem}" for problem in error.problems]
        return []

    def _shards(self) -> ShardSet:
        """Open the indexes on first use."""
        if self._set is None:
            shards = prepare(expand(self.config.shards), folder=self.config.index)
            opened = ShardSet(
                shards, window=self.config.window, max_samples=self.config.max_samples
            )
            if len(opened) == 0:
                raise ConfigError(f"{self.config.shards}: holds no sample")
            self._set = opened
        return self._set


def member_item(sample: ShardSample, name: str) -> MediaItem:
    """Return a media item, its kind still "image", for a file of a sample.

    Raises:
        MediaError: the shard holds no such file.
    """
    path = f"{sample.shard}/{sample.key}.{name}"
    if name not in sample.members:
        held = ", ".join(sample.members) or "nothing else"
        raise MediaError(f"the shard does not hold it (of this sample: {held})", path=path)
    return MediaItem(kind="image", path=path, member=sample.members[name])


@registry.register_dataset("shards")
class Shards(ShardReader):
    """Conversations with any media, in tars."""

    @dataclass(frozen=True)
    class Config(ShardReader.Config):
        """Keys of a shards entry."""

    config: Config
    where_from = "made by `video-llama shards write`"

    @property
    def kinds(self) -> None:
        """Samples may differ."""
        return

    def key_of(self, sample: ShardSample) -> str:
        """Return the key that the sample had before it was packed."""
        return str(sample.fields.get("id") or super().key_of(sample))

    def build(self, sample: ShardSample, *, seed: int) -> Sample:
        """Turn a conversation into a sample, see `ShardReader.build`; nothing is random."""
        fields, where = sample.fields, sample.where
        try:
            turns = read_turns(fields)
        except BadRow as error:
            raise MediaError(f"its json: {error}", path=where) from error
        messages = messages_of(
            turns, where=where, find=lambda part: member_item(sample, part["path"])
        )
        form = fields.get("form", form_of(messages))
        if form not in get_args(Form):
            raise MediaError(f"its json: form {form!r} is none of {get_args(Form)}", path=where)
        return Sample(
            key=self.key_of(sample),
            messages=messages,
            form=form,
            frame_times=bool(fields.get("frame_times", True)),
            meta=dict(fields.get("meta", {})),
        )
