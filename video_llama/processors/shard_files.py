"""Bytes out of shards: tars on a disk, behind http, or at the end of a pipe.

A shard on a disk is read at an offset; by http the same range is asked for. What can only be had
from its beginning (a `pipe:` command, a server without ranges) is fetched whole into a spool
folder, which all processes of a user share and which holds a bounded number of shards. What is in
a shard is not known here, see `datasets.shard_index`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from video_llama.common.download import download, look_up, read_range
from video_llama.common.errors import ConfigError, MediaError, VideoLlamaError
from video_llama.common.hub import cache_folder
from video_llama.common.members import Member
from video_llama.processors.identity import content_hash

MAX_OPEN = 8
"""Shards that a process keeps open."""

MAX_SPOOLED = 16
"""Shards in the spool folder; the one not used for longest goes first."""

NUM_ATTEMPTS = 4
"""How often a range is asked for before its sample is given up."""

RETRY_S = 0.5
BLOCK = 1 << 20


class ShardFiles:
    """Reads members of shards.

    Args:
        spool: folder for shards that can only be fetched whole; None for one in the user's cache.
        max_spooled: shards in it.
    """

    def __init__(self, *, spool: Path | None = None, max_spooled: int = MAX_SPOOLED) -> None:
        self._spool = spool
        self._max_spooled = max_spooled
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()
        self._without_ranges: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Data workers may be started afresh; an open file means nothing to another process.
        return {**self.__dict__, "_open": OrderedDict()}

    def read(self, member: Member) -> bytes:
        """Return the content of a member.

        Raises:
            MediaError: the shard cannot be read there, or holds other bytes than it once did.
            ConfigError: a package is missing.
        """
        try:
            data = self._read(member)
        except ConfigError:
            raise
        except (OSError, VideoLlamaError) as error:
            raise MediaError(f"its shard cannot be read ({error})", path=member.shard) from error
        if len(data) < member.size:
            end = member.offset + len(data)
            raise MediaError(
                f"the shard ends at byte {end:,}, inside a file that ends at byte "
                f"{member.offset + member.size:,} by its index",
                path=member.shard,
            )
        if content_hash(data) != member.digest:
            raise MediaError(
                f"the {member.size:,} bytes from byte {member.offset:,} on are not those that its "
                "index was made of",
                path=member.shard,
            )
        return data

    def open(self, shard: str) -> BinaryIO:
        """Return a file with a whole shard, from the spool if it lies on no disk.

        Raises:
            OSError: it cannot be opened.
            VideoLlamaError: it cannot be fetched.
        """
        return local_path(shard).open("rb") if is_local(shard) else self._open_spooled(shard)

    def _read(self, member: Member) -> bytes:
        if is_http(member.shard) and member.shard not in self._without_ranges:
            data = _read_range(member)
            if data is not None:
                return data
            self._without_ranges.add(member.shard)
        file = self._open.pop(member.shard, None) or self.open(member.shard)
        self._open[member.shard] = file
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        # pread has no position that forked workers would share.
        return os.pread(file.fileno(), member.size, member.offset)

    def _open_spooled(self, shard: str) -> BinaryIO:
        """Open a shard in the spool, fetching it first if it is not there."""
        folder = self._spool or cache_folder() / "spool"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{short_name(shard)}.tar"
        with locked(path):
            if not path.exists():
                self._make_room(folder)
                _fetch(shard, path)
            os.utime(path)
            return path.open("rb")

    def _make_room(self, folder: Path) -> None:
        """Delete the shards not used for longest; processes that have them open read on."""
        spooled = sorted(folder.glob("*.tar"), key=lambda path: path.stat().st_mtime)
        for path in spooled[: max(0, len(spooled) - self._max_spooled + 1)]:
            path.unlink(missing_ok=True)


def is_http(shard: str) -> bool:
    """Tell whether a shard has an address of which parts can be asked for."""
    return shard.startswith(("http://", "https://"))


def is_local(shard: str) -> bool:
    """Tell whether a shard is a file on a disk."""
    return shard.startswith("file:") or not (shard.startswith("pipe:") or "://" in shard)


def local_path(shard: str) -> Path:
    """Return the path of a shard that lies on a disk."""
    return Path(shard.removeprefix("file://").removeprefix("file:"))


def short_name(shard: str) -> str:
    """Return a file name that no other shard has, whatever it is fetched by."""
    end = shard.split("?")[0].rstrip("/ '\"").rsplit("/", 1)[-1].rsplit(" ", 1)[-1]
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in end.removesuffix(".tar"))
    return f"{stem[-40:]}-{hashlib.blake2b(shard.encode(), digest_size=6).hexdigest()}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from making the same file at the same time."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_range(member: Member) -> bytes | None:
    """Ask for a member by http, again if the connection breaks off."""
    for attempt in range(NUM_ATTEMPTS):
        last = attempt == NUM_ATTEMPTS - 1
        try:
            data = read_range(member.shard, start=member.offset, size=member.size)
        except VideoLlamaError:
            if last:
                raise
        else:
            if data is None or len(data) == member.size or last:
                return data
        time.sleep(RETRY_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _fetch(shard: str, target: Path) -> None:
    """Write a whole shard to a file."""
    if is_http(shard):
        download(look_up(shard), target, progress=lambda num_bytes: None)
        return
    try:
        from webdataset import gopen
    except ImportError as error:
        raise ConfigError(f"{shard}: needs webdataset: pip install 'video-llama[train]'") from error
    part = target.with_suffix(".part")
    try:
        with gopen(shard, "rb") as stream, part.open("wb") as file:
            shutil.copyfileobj(stream, file, BLOCK)
    except (OSError, ValueError) as error:
        # ValueError is how webdataset says that it knows no such kind of address.
        part.unlink(missing_ok=True)
        raise VideoLlamaError(f"{shard}: cannot be fetched ({error})") from error
    part.replace(target)
