"""Packs a data set into shards that `shards` reads back as the same samples.

Shards are written by the webdataset library under a temporary name and get theirs when they are on
disk; `shards.json` says after each of them how far the data set has come, so that a killed packing
goes on with the next shard. Equal samples give equal bytes. Media are copied, not encoded anew;
one that cannot be opened costs its sample, which is named. Layouts are those of `shard_index` and
`messages`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from video_llama.common.errors import ConfigError, MediaError
from video_llama.datasets.base import NUM_PROBED, DatasetReader
from video_llama.datasets.packed_sample import sample_files
from video_llama.datasets.shard_index import write_index
from video_llama.datasets.shard_set import INDEX_SUFFIX, MANIFEST
from video_llama.processors.shard_files import ShardFiles

NUM_SEEDS = 4
"""Readings of a sample that are compared to see whether anything in it is drawn."""


@dataclass(frozen=True)
class ShardLimits:
    """How large a shard becomes; the sample that reaches a limit opens the next one.

    Attributes:
        max_mb: megabytes of content; a larger sample stands alone.
        max_count: samples.
    """

    max_mb: float = 512.0
    max_count: int = 10_000

    def __post_init__(self) -> None:
        if self.max_mb <= 0 or self.max_count < 1:
            raise ConfigError(
                f"--max-mb {self.max_mb:g} --max-count {self.max_count}: both must be above 0"
            )


@dataclass(frozen=True)
class BrokenSample:
    """A sample that could not be packed."""

    key: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What `shards.json` says.

    Attributes:
        source: what is packed and how; another source must go to another folder.
        finished: whether all samples have been seen.
        next_index: first sample that is in no finished shard.
        num_samples: in all finished shards.
        shards: their names.
        broken: samples left out.
    """

    source: Mapping[str, Any]
    finished: bool = False
    next_index: int = 0
    num_samples: int = 0
    shards: tuple[str, ...] = ()
    broken: tuple[BrokenSample, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read one that `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        broken = tuple(BrokenSample(**row) for row in content.pop("broken"))
        return cls(**{**content, "shards": tuple(content["shards"]), "broken": broken})

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        part = path.with_name(f".{path.name}.part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


@dataclass
class _Chunk:
    """Samples of one shard: how many bytes, and what could not be packed on the way."""

    num_samples: int = 0
    num_bytes: int = 0
    broken: list[BrokenSample] = field(default_factory=list)

    def is_full(self, limits: ShardLimits, *, adding: int) -> bool:
        """Tell whether another sample of so many bytes must go elsewhere."""
        if self.num_samples == 0:
            return False
        return self.num_samples >= limits.max_count or self.num_bytes + adding > limits.max_mb * 1e6


def pack(
    reader: DatasetReader,
    folder: Path,
    *,
    source: Mapping[str, Any],
    limits: ShardLimits,
    progress: Callable[[int], None],
) -> Manifest:
    """Write a data set's samples into shards, or the rest of them.

    Args:
        reader: of the data set; nothing it needs is missing.
        folder: where they go; is made.
        source: what is packed, JSON types; compared with that of an earlier call.
        limits: of a shard.
        progress: called with the number of samples seen, from the first call on.

    Returns:
        What `shards.json` says at the end.

    Raises:
        ConfigError: the folder holds shards of another source, or no sample can be packed.
        OSError: the disk is full or refuses.
    """
    manifest = _begin(folder, source)
    while not manifest.finished:
        progress(manifest.next_index)
        manifest = _write_shard(reader, folder, manifest, limits=limits, progress=progress)
        if manifest.finished and manifest.num_samples == 0:
            first = manifest.broken[0]
            raise ConfigError(
                f"datasets.{reader.name}: none of its {len(reader)} samples can be packed, e.g. "
                f"{first.key}: {first.reason}"
            )
        manifest.write(folder / MANIFEST)
    progress(len(reader))
    return manifest


def is_drawn(reader: DatasetReader) -> bool:
    """Tell whether another pass would read other messages from the same samples."""
    step = max(1, len(reader) // NUM_PROBED)
    for index in range(0, len(reader), step):
        try:
            readings = [reader.sample(index, seed=seed).messages for seed in range(NUM_SEEDS)]
        except MediaError:
            continue
        if any(reading != readings[0] for reading in readings):
            return True
    return False


def _begin(folder: Path, source: Mapping[str, Any]) -> Manifest:
    """Return how far an earlier call has come."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    manifest = Manifest(source=json.loads(json.dumps(source)))
    if not path.exists():
        if any(folder.glob("*.tar")):
            raise ConfigError(f"{folder}: holds tars that are not ours; choose another folder")
        manifest.write(path)
        return manifest
    found = Manifest.read(path)
    if found.source != manifest.source:
        changed = [
            f"{key} {found.source.get(key)!r} -> {value!r}"
            for key, value in manifest.source.items()
            if found.source.get(key) != value
        ]
        raise ConfigError(
            f"{folder}: holds shards made otherwise ({'; '.join(changed)}); choose another folder, "
            "or remove this one"
        )
    return found


def _write_shard(
    reader: DatasetReader,
    folder: Path,
    manifest: Manifest,
    *,
    limits: ShardLimits,
    progress: Callable[[int], None],
) -> Manifest:
    """Write the next shard and return what is true then."""
    name = f"{len(manifest.shards):06d}.tar"
    part = folder / f".{name}.part"
    files = ShardFiles()
    chunk = _Chunk()
    index = manifest.next_index
    with part.open("wb") as file, _tar_writer(file) as tar:
        while index < len(reader):
            try:
                content = sample_files(reader.sample(index), key=f"{index:09d}", files=files)
            except MediaError as error:
                chunk.broken.append(BrokenSample(reader.key(index), str(error)))
            else:
                size = sum(len(data) for name, data in content.items() if name != "__key__")
                if chunk.is_full(limits, adding=size):
                    break
                tar.write(content)
                chunk.num_samples += 1
                chunk.num_bytes += size
            index += 1
            progress(index)
    shards = manifest.shards
    if chunk.num_samples:
        _finish(part, folder / name)
        shards = (*shards, name)
    else:
        part.unlink()
    return replace(
        manifest,
        finished=index == len(reader),
        next_index=index,
        num_samples=manifest.num_samples + chunk.num_samples,
        shards=shards,
        broken=(*manifest.broken, *chunk.broken),
    )


def _tar_writer(file: BinaryIO) -> Any:
    """Return webdataset's writer, so that equal samples give equal bytes."""
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise ConfigError("shards need webdataset: pip install 'video-llama[train]'") from error
    return TarWriter(file, encoder=False, mtime=0, user="", group="", mode=0o644)


def _finish(part: Path, target: Path) -> None:
    """Bring a shard to disk, give it its name, and index it."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
        index = target.with_name(target.name + INDEX_SUFFIX)
        write_index(file, index, shard=target.name)
    part.replace(target)
