r"""What lies where in a shard, so that any of its samples can be had without reading the others.

A shard is a plain tar; files whose names are equal up to the first dot are one sample, as in the
webdataset library, which does the grouping. Its index is a file of lines:

    {"video_llama_index": 1, "shard": "000000.tar", "size": 1136640, "sha256": "...", "samples": 75}
    ["000000000", {"caption": "a dog"}, {"jpg": [512, 14223, "<content hash>"]}]

the second kind once per sample: its key, what its json says, and offset, size and identity of its
other files. A shard that was cut off or changed no longer fits its index; one without an index is
read to its end mark before it is believed. Where indexes are kept is the business of `shard_set`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from video_llama.common.errors import ConfigError
from video_llama.common.members import Member
from video_llama.processors.identity import content_hash

VERSION = 1
BLOCK = 1 << 20
END_MARK = bytes(1024)
"""Two empty blocks, with which every whole tar ends (POSIX.1-1988, ustar)."""

KEPT_FIELDS = ("id", "caption", "messages", "form", "frame_times", "meta")
"""Keys of a sample's json that readers use; crawls add many more."""


@dataclass(frozen=True)
class ShardHeader:
    """What an index says of its shard as a whole.

    Attributes:
        shard: file name, for people.
        size: in bytes.
        sha256: of the whole file, hexadecimal.
        samples: how many there are.
        video_llama_index: version of the layout.
    """

    shard: str
    size: int
    sha256: str
    samples: int
    video_llama_index: int = VERSION


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard.

    Attributes:
        key: what its files' names share.
        fields: what its json says, the fields that are kept.
        members: its other files, by what follows the first dot of their names.
        shard: where it lies.
    """

    key: str
    fields: Mapping[str, Any]
    members: Mapping[str, Member]
    shard: str

    @property
    def where(self) -> str:
        """Shard and key, for messages."""
        return f"{self.shard} {self.key}"


class ShardIndex:
    """The samples of one shard; lines are parsed when they are asked for.

    Args:
        path: the index.
        shard: what it is the index of.

    Raises:
        ConfigError: the file is no index, or was cut off.
    """

    def __init__(self, path: Path, *, shard: str) -> None:
        self.shard = shard
        self.header = read_header(path)
        self._content = path.read_bytes()
        self._starts = array("q", [self._content.index(b"\n") + 1])
        while (end := self._content.find(b"\n", self._starts[-1])) >= 0:
            self._starts.append(end + 1)
        if len(self) != self.header.samples:
            raise ConfigError(
                f"{path}: holds {len(self)} samples and speaks of {self.header.samples}; delete "
                "it, it will be made again"
            )

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> ShardSample:
        key, fields, members = json.loads(
            self._content[self._starts[index] : self._starts[index + 1]]
        )
        return ShardSample(
            key=key,
            fields=fields,
            members={name: Member(self.shard, *place) for name, place in members.items()},
            shard=self.shard,
        )


def read_header(path: Path) -> ShardHeader:
    """Read what an index says of its shard as a whole.

    Raises:
        ConfigError: the file is no index of this version.
    """
    with path.open("rb") as file:
        line = file.readline(4096)
    try:
        header = ShardHeader(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: no index of a shard; delete it, it will be made") from error
    if header.video_llama_index != VERSION:
        raise ConfigError(
            f"{path}: an index of version {header.video_llama_index}, this program makes version "
            f"{VERSION}; delete it, it will be made again"
        )
    return header


def write_index(file: BinaryIO, target: Path, *, shard: str) -> ShardHeader:
    """Read a whole shard and write its index, whole or not under its name.

    Args:
        file: the shard.
        target: where the index goes; its folder exists.
        shard: what the shard is called.

    Raises:
        ConfigError: the shard is no tar, or ends early.
        OSError: it cannot be read, or the index cannot be written.
    """
    lines = [json.dumps(row) for row in _rows(file, shard)]
    header = ShardHeader(
        shard=shard.rsplit("/", 1)[-1],
        size=os.fstat(file.fileno()).st_size,
        sha256=checksum(file),
        samples=len(lines),
    )
    part = target.with_name(f".{target.name}.part")
    with part.open("w", encoding="utf-8") as index:
        index.write("".join(f"{line}\n" for line in (json.dumps(asdict(header)), *lines)))
        index.flush()
        os.fsync(index.fileno())
    part.replace(target)
    return header


def checksum(file: BinaryIO) -> str:
    """Return the SHA-256 of a whole file, hexadecimal."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _rows(file: BinaryIO, shard: str) -> Iterator[list[Any]]:
    """Yield a line per sample."""
    try:
        from webdataset.tariterators import group_by_keys
    except ImportError as error:
        raise ConfigError(
            f"{shard}: shards need webdataset: pip install 'video-llama[train]'"
        ) from error
    try:
        for sample in group_by_keys(_files(file, shard)):
            key = sample.pop("__key__")
            members = {name: value for name, value in sample.items() if not name.startswith("__")}
            fields = _fields(file, members.pop("json", None))
            yield [
                key,
                fields,
                {
                    name: [offset, size, content_hash(_read(file, offset, size))]
                    for name, (offset, size) in members.items()
                },
            ]
    except tarfile.TarError as error:
        raise ConfigError(f"{shard}: no whole, uncompressed tar ({error}); get it again") from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{shard}: {error.args[0]}; a file of a sample is there twice") from error


def _files(file: BinaryIO, shard: str) -> Iterator[dict[str, Any]]:
    """Yield the files of a tar with their places, and look at its end."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            if info.isreg():
                place = (info.offset_data, info.size)
                yield {"fname": info.name, "data": place, "__url__": shard}
            tar.members = []  # type: ignore[attr-defined] # or it would keep all of them
        end = tar.offset
    file.seek(end)
    if file.read(len(END_MARK)) != END_MARK:
        raise ConfigError(
            f"{shard}: ends early or is damaged, after byte {end:,} neither a file nor the end "
            "mark of a tar follows; get it again"
        )


def _fields(file: BinaryIO, place: tuple[int, int] | None) -> dict[str, Any]:
    """Return what a sample's json says; what is wrong with it is told when it is used."""
    if place is None:
        return {}
    try:
        content = json.loads(_read(file, *place))
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: content[name] for name in KEPT_FIELDS if name in content}


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    # tarfile goes on from its own position, so this one must not move it.
    return os.pread(file.fileno(), size, offset)
