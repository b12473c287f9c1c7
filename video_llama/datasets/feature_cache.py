"""What the frozen encoders made of a clip, kept on disk so that it is computed once.

A folder of append-only pairs of files, `rank0-0000.bin` (tensors, one after the other) and
`rank0-0000.jsonl` (what lies where). Every process writes files of its own and reads everybody's,
so ranks and data workers need no lock. An index line is written only after its data is on disk,
and half a line at the end is not read: a killed run leaves nothing that could be misread.

Features are found by the content of the media file, never by its name alone, together with
everything that shaped them: span, media spec, reader, augmentation, and the frozen weights. A
change of any of these is simply another key. Nothing is ever deleted here; remove the folder.

Shapes: T time steps, N tokens a step, D width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.common.media_specs import spec_identity
from video_llama.common.types import BranchSpec, MediaItem
from video_llama.processors.media import content_hash

KEY_VERSION = 2
"""Raised when the way from a file to an encoder's input changes, so that old features miss."""

FLUSH_BYTES = 64 * 2**20
FLUSH_ITEMS = 256
"""Data workers find features only once they are on disk; a small data set comes round quickly."""
SHARD_BYTES = 4 * 2**30


@dataclass(frozen=True)
class FileStamp:
    """What a file's content was when it looked like this from outside."""

    path: str
    size: int
    mtime_ns: int
    digest: str


@dataclass(frozen=True)
class CachedFeatures:
    """Features of one media item at the cache frontier.

    Attributes:
        features: float[T, N, D], valid steps only, in the dtype they were computed in.
        times_s: seconds of the steps.
    """

    features: Tensor
    times_s: tuple[float, ...]


@dataclass(frozen=True)
class Lookup:
    """What the cache knows of a media item.

    Attributes:
        key: where its features are or will be; None if they cannot be cached.
        hit: the features, None if they have to be computed.
        stamp: set if the file's content had to be hashed; to be handed to `FeatureCache.add`.
    """

    key: str | None = None
    hit: CachedFeatures | None = None
    stamp: FileStamp | None = None


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies."""

    shard: str
    offset: int
    num_bytes: int
    checksum: int
    dtype: str
    shape: tuple[int, ...]
    times_s: tuple[float, ...]


class FeatureCache:
    """Reads everybody's features and writes this process's own.

    Args:
        directory: made if it is not there.
        rank: of this process; names its files.
        reader: identity of the code that decodes media; part of every key.
    """

    def __init__(self, directory: str | Path, *, rank: int = 0, reader: str = "") -> None:
        self.directory = Path(directory)
        self.rank = rank
        self.reader = reader
        self.directory.mkdir(parents=True, exist_ok=True)
        self._entries: dict[str, _Entry] = {}
        self._stamps: dict[str, FileStamp] = {}
        self._of_branches: dict[str, tuple[BranchSpec, str]] = {}
        self._read_up_to: dict[str, int] = {}
        self._open: dict[str, int] = {}
        self._pending: dict[str, CachedFeatures] = {}
        self._pending_stamps: list[FileStamp] = []
        self._pending_bytes = 0
        self._shard: Path | None = None
        self.refresh()

    def __len__(self) -> int:
        return len(self._entries.keys() | self._pending.keys())

    def __getstate__(self) -> dict[str, Any]:
        # Data workers may be started afresh; an open file means nothing to another process.
        return {**self.__dict__, "_open": {}, "_of_branches": {}}

    def look_up(self, item: MediaItem, spec: BranchSpec) -> Lookup:
        """Say under which key an item's features go, and return them if they are there.

        The media file is not opened if its size and time of change are known. A file that is
        gone is taken for the one last seen under its name. What lies in a shard is known by its
        index, and is the same as the file it once was.

        Args:
            item: which file, which part of it.
            spec: of the branch it goes to.
        """
        if spec.frontier_id is None:
            return Lookup()
        if item.member is not None:
            key = self._key(item, spec, digest=item.member.digest)
            return Lookup(key=key, hit=self.get(key))
        stamp = self._stamp_of(item.path)
        if stamp is None:
            return Lookup()
        new = stamp if self._stamps.get(stamp.path) != stamp else None
        self._stamps[stamp.path] = stamp
        key = self._key(item, spec, digest=stamp.digest)
        return Lookup(key=key, hit=self.get(key), stamp=new)

    def get(self, key: str) -> CachedFeatures | None:
        """Return features bit-equal to those put, None if there are none.

        Raises:
            ConfigError: the file is damaged.
        """
        if key in self._pending:
            return self._pending[key]
        if key not in self._entries:
            self.refresh()
        entry = self._entries.get(key)
        return None if entry is None else self._read(entry)

    def put(self, key: str, features: Tensor, *, times_s: tuple[float, ...] = ()) -> None:
        """Keep features; a key that is there already is left alone.

        Args:
            key: from `look_up`.
            features: float[T, N, D], valid steps only.
            times_s: seconds of the steps.

        Raises:
            VideoLlamaError: enough is waiting to be written, and cannot be.
        """
        if key in self._entries or key in self._pending:
            return
        kept = features.detach().to("cpu", copy=True).contiguous()
        self._pending[key] = CachedFeatures(kept, times_s)
        self._pending_bytes += kept.nbytes
        if self._pending_bytes >= FLUSH_BYTES or len(self._pending) >= FLUSH_ITEMS:
            self.flush()

    def add(
        self,
        frontier: Mapping[str, Tensor],
        *,
        times_s: Mapping[str, tuple[float, ...]],
        stamps: Iterable[FileStamp] = (),
    ) -> None:
        """Keep what a forward pass computed; called by the process that trains.

        Args:
            frontier: float[T, N, D] by key, as `LossOutput.frontier` has it, padded steps too.
            times_s: seconds of the valid steps by key, as `LoadedBatch.times_s` has it.
            stamps: as `LoadedBatch.stamps` has them.
        """
        for key, features in frontier.items():
            if key in times_s:
                self.put(key, features[: len(times_s[key])], times_s=times_s[key])
        for stamp in stamps:
            self._stamps[stamp.path] = stamp
            self._pending_stamps.append(stamp)

    def flush(self) -> None:
        """Bring everything to disk; other processes see it from then on.

        Raises:
            VideoLlamaError: it cannot be written.
        """
        if not self._pending and not self._pending_stamps:
            return
        try:
            self._write_pending()
        except OSError as error:
            raise VideoLlamaError(
                f"run.feature_cache: {self.directory} cannot be written: "
                f"{error.strerror or error}; make room, or set run.feature_cache=null, and start "
                "again, a training with run.resume_ckpt_path=auto"
            ) from error
        self._pending, self._pending_stamps, self._pending_bytes = {}, [], 0

    def _write_pending(self) -> None:
        """Append what is not on disk yet, the index only after the data."""
        data = self._writable_shard()
        lines = []
        with data.open("ab") as file:
            for key, cached in self._pending.items():
                entry = _write(file, cached, shard=data.name)
                self._entries[key] = entry
                lines.append({"key": key, **dataclasses.asdict(entry)})
            _sync(file)
        lines.extend({"file": dataclasses.asdict(stamp)} for stamp in self._pending_stamps)
        with data.with_suffix(".jsonl").open("ab") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            _sync(file)

    def refresh(self) -> None:
        """Read what processes have written since the last look."""
        for path in sorted(self.directory.glob("*.jsonl")):
            start = self._read_up_to.get(path.name, 0)
            if path.stat().st_size <= start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                whole = file.read().rpartition(b"\n")[0]
            for line in whole.splitlines():
                try:
                    self._read_line(json.loads(line))
                except ValueError as error:
                    raise ConfigError(
                        f"run.feature_cache: {path} lists no features ({error}); delete it, what "
                        "it listed is computed again"
                    ) from error
            self._read_up_to[path.name] = start + len(whole) + (1 if whole else 0)

    def _read_line(self, line: dict[str, Any]) -> None:
        if "file" in line:
            stamp = FileStamp(**line["file"])
            self._stamps[stamp.path] = stamp
            return
        key = line.pop("key")
        line.update(shape=tuple(line["shape"]), times_s=tuple(line["times_s"]))
        self._entries.setdefault(key, _Entry(**line))

    def _read(self, entry: _Entry) -> CachedFeatures:
        data = bytearray()
        if entry.shard not in self._open and (path := self.directory / entry.shard).exists():
            self._open[entry.shard] = os.open(path, os.O_RDONLY)
        if entry.shard in self._open:
            # pread has no position that forked workers would share.
            data += os.pread(self._open[entry.shard], entry.num_bytes, entry.offset)
        if len(data) != entry.num_bytes or zlib.crc32(data) != entry.checksum:
            raise ConfigError(
                f"run.feature_cache: {self.directory / entry.shard} is damaged or incomplete at "
                f"byte {entry.offset}; remove the folder {self.directory}, it will be filled again"
            )
        dtype = getattr(torch, entry.dtype)
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return CachedFeatures(flat.reshape(entry.shape), entry.times_s)

    def _writable_shard(self) -> Path:
        """Return the data file to append to, a new one if there is none or it is full."""
        if self._shard is not None and self._shard.stat().st_size < SHARD_BYTES:
            return self._shard
        for number in range(10_000):
            path = self.directory / f"rank{self.rank}-{number:04d}.bin"
            try:
                path.open("xb").close()
            except FileExistsError:
                continue
            self._shard = path
            return path
        raise ConfigError(f"run.feature_cache: {self.directory} is full of files; remove it")

    def _stamp_of(self, path: str) -> FileStamp | None:
        """Return a file's stamp, hashing its content only if it looks new; None without a file."""
        name = path if path.startswith("/") else f"{os.getcwd()}/{path}"  # noqa: PTH109
        # Stamps go by absolute paths as pathlib writes them, so that what is found is one.
        known = self._stamps.get(name) or self._stamps.get(name := str(Path(path).absolute()))
        try:
            status = os.stat(name)  # noqa: PTH116
        except (OSError, ValueError):  # ValueError: no file can have that name.
            return known
        if known and (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns):
            return known
        if not Path(name).is_file():
            # A folder of pictures: its own time of change does not tell of a changed picture.
            return None
        return FileStamp(name, status.st_size, status.st_mtime_ns, content_hash(name))

    def _key(self, item: MediaItem, spec: BranchSpec, *, digest: str) -> str:
        """Hash everything that shapes an item's features."""
        known, of_branch = self._of_branches.get(spec.name, (None, ""))
        if known is not spec:  # What all its items share is written out once.
            shared = {
                "spec": [type(spec.spec).__name__, spec_identity(spec.spec)],
                "reader": self.reader,
                "augment": "none",
                "frontier": [spec.frontier_id, dataclasses.asdict(spec.frontier)],
            }
            of_branch = json.dumps(shared)
            self._of_branches[spec.name] = (spec, of_branch)
        span_s = [item.start_s, item.end_s]
        own = {"version": KEY_VERSION, "content": digest, "kind": item.kind, "span_s": span_s}
        parts = f"{json.dumps(own)[:-1]}, {of_branch[1:]}"
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def _write(file: BinaryIO, cached: CachedFeatures, *, shard: str) -> _Entry:
    """Append a tensor's bytes and say where they are."""
    features = cached.features
    data = features.flatten().view(torch.uint8).numpy().tobytes()
    offset = file.seek(0, os.SEEK_END)
    file.write(data)
    return _Entry(
        shard=shard,
        offset=offset,
        num_bytes=len(data),
        checksum=zlib.crc32(data),
        dtype=str(features.dtype).removeprefix("torch."),
        shape=tuple(features.shape),
        times_s=cached.times_s,
    )


def _sync(file: BinaryIO) -> None:
    """Wait until a file's bytes are on disk."""
    file.flush()
    os.fsync(file.fileno())
