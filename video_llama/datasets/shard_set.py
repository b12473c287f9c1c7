"""The shards of a data set: which they are, where their indexes are, and whether they are whole.

An index that is missing is made on first use, all of them in parallel: beside a shard on a disk, in
the user's cache for a shard elsewhere or in a place that cannot be written. By http an index beside
the shard is fetched instead. What a shard holds is the business of `shard_index`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from video_llama.common.dist import is_main
from video_llama.common.download import download, look_up
from video_llama.common.errors import ConfigError, VideoLlamaError
from video_llama.common.hub import cache_folder
from video_llama.common.logger import get_logger
from video_llama.datasets.base import missing_path
from video_llama.datasets.blocks import Blocks
from video_llama.datasets.shard_index import (
    ShardHeader,
    ShardIndex,
    ShardSample,
    checksum,
    read_header,
    write_index,
)
from video_llama.processors.shard_files import (
    ShardFiles,
    is_http,
    is_local,
    local_path,
    locked,
    short_name,
)

INDEX_SUFFIX = ".index.jsonl"
MANIFEST = "shards.json"
"""What `video-llama shards write` says of a folder as a whole."""

MAX_LISTED = 10
NUM_THREADS = 8
"""Shards looked at together: disks and nets like a few, and hashing frees the interpreter."""

Thoroughness = Literal["size", "checksum"]


@dataclass(frozen=True)
class Shard:
    """A shard that fits its index.

    Attributes:
        name: path, address or command.
        index: where its index is.
        num_samples: how many are in it.
    """

    name: str
    index: Path
    num_samples: int


class ShardSet:
    """The samples of a row of shards, numbered through.

    Args:
        shards: as `prepare` gives them.
        window: shards that are shuffled into one another.
        max_samples: samples used from the beginning, None for all.
    """

    def __init__(
        self, shards: Sequence[Shard], *, window: int, max_samples: int | None = None
    ) -> None:
        self.shards = shards
        left = sum(shard.num_samples for shard in shards) if max_samples is None else max_samples
        sizes = []
        for shard in shards:
            sizes.append(min(shard.num_samples, left))
            left -= sizes[-1]
        self.blocks = Blocks(tuple(sizes), window)
        self._indexes: OrderedDict[int, ShardIndex] = OrderedDict()

    def __len__(self) -> int:
        return self.blocks.starts[-1]

    def __getitem__(self, index: int) -> ShardSample:
        number = self.blocks.block_of(index)
        return self._index(number)[index - self.blocks.starts[number]]

    def _index(self, number: int) -> ShardIndex:
        """Return the index of a shard; those of about two windows are kept."""
        found = self._indexes.pop(number, None)
        if found is None:
            shard = self.shards[number]
            found = ShardIndex(shard.index, shard=shard.name)
        self._indexes[number] = found
        while len(self._indexes) > 2 * self.blocks.window:
            self._indexes.popitem(last=False)
        return found


def expand(pattern: str) -> list[str]:
    """Return the shards that a pattern stands for, in order.

    Args:
        pattern: paths or addresses with braces as in `{00000..00041}.tar`, several joined by `::`;
            a `pipe:` command with braces; or a folder, for the tars in it.

    Raises:
        ConfigError: there is no such folder, or it is empty or unfinished.
    """
    if is_local(pattern) and local_path(pattern).is_dir():
        return _in_folder(local_path(pattern))
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise ConfigError(
            f"{pattern}: shards need webdataset: pip install 'video-llama[train]'"
        ) from error
    return list(expand_urls(pattern))


def prepare(
    names: Sequence[str], *, folder: str | None = None, thoroughness: Thoroughness = "size"
) -> list[Shard]:
    """Find or make the index of every shard, and look whether the shard still fits it.

    Args:
        names: of the shards, as `expand` gives them.
        folder: where indexes are kept, None for the places named above.
        thoroughness: how a shard that has an index is compared with it. "size" also compares the
            checksum of a shard on a disk that is younger than its index; a pipe tells no size.

    Raises:
        ConfigError: shards are missing, cut off or changed; all of them are named.
    """
    absent = [path for path in map(local_path, filter(is_local, names)) if not path.exists()]
    if absent:
        texts = [missing_path(path) or "" for path in absent[:MAX_LISTED]]
        raise ConfigError(_listed([*texts, *map(str, absent[MAX_LISTED:])]))
    files = ShardFiles()
    places = {name: _index_path(name, folder=folder) for name in names}
    to_read = [n for n in places if thoroughness == "checksum" or not places[n].exists()]
    shards: dict[str, Shard] = {}
    problems: dict[str, str] = {}
    bar = Progress(
        TextColumn("indexes of shards"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not (to_read and is_main()),
    )
    with bar, ThreadPoolExecutor(NUM_THREADS) as pool:
        task = bar.add_task("", total=len(places))
        futures: dict[Future[Shard], str] = {
            pool.submit(_prepare, name, path, files=files, thoroughness=thoroughness): name
            for name, path in places.items()
        }
        for future in as_completed(futures):
            try:
                shards[futures[future]] = future.result()
            except ConfigError as error:
                problems[futures[future]] = "; ".join(error.problems)
            except (VideoLlamaError, OSError) as error:
                problems[futures[future]] = str(error)
            bar.advance(task)
    if problems:
        raise ConfigError(_listed([problems[name] for name in places if name in problems]))
    if to_read:
        get_logger().info("%d shards read and indexed or compared", len(to_read))
    return [shards[name] for name in names]


def _in_folder(folder: Path) -> list[str]:
    """Return the tars of a folder; all of them, if `video-llama shards write` made it."""
    found = sorted(path.name for path in folder.glob("*.tar"))
    manifest = folder / MANIFEST
    if manifest.is_file():
        _compare_manifest(manifest, found)
    if not found:
        raise ConfigError(f"{folder}: holds no shard (*.tar)")
    return [str(folder / name) for name in found]


def _compare_manifest(manifest: Path, found: Sequence[str]) -> None:
    """Refuse a folder whose packing stopped, or that lost shards since."""
    folder = manifest.parent
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        finished, wanted = bool(content["finished"]), list(content["shards"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{manifest}: not what `video-llama shards write` writes; give the tars by a brace "
            "pattern if they are not from there"
        ) from error
    if not finished:
        raise ConfigError(
            f"{folder}: its packing has not been finished; give the same `video-llama shards "
            "write` again, it goes on where it stopped"
        )
    if found != wanted:
        differing = sorted(set(wanted) ^ set(found))
        raise ConfigError(
            f"{folder}: {MANIFEST} speaks of {len(wanted)} shards, {len(found)} are there; the "
            f"difference: {', '.join(differing[:MAX_LISTED])}"
        )


def _index_path(name: str, *, folder: str | None) -> Path:
    """Return where the index of a shard is, or will be."""
    if folder is not None:
        return Path(folder) / f"{short_name(name)}{INDEX_SUFFIX}"
    if is_local(name):
        shard = local_path(name)
        beside = shard.with_name(shard.name + INDEX_SUFFIX)
        if beside.exists() or os.access(shard.parent, os.W_OK):
            return beside
        name = str(shard.absolute())
    return cache_folder() / "indexes" / f"{short_name(name)}{INDEX_SUFFIX}"


def _prepare(name: str, path: Path, *, files: ShardFiles, thoroughness: Thoroughness) -> Shard:
    """Bring one shard and its index together."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            # Another rank may have made it while this one waited.
            if not path.exists() and not _fetch_index(name, path):
                with files.open(name) as file:
                    header = write_index(file, path, shard=name)
                return Shard(name, path, header.samples)
    header = read_header(path)
    _compare(name, path, header, files=files, thoroughness=thoroughness)
    return Shard(name, path, header.samples)


def _fetch_index(name: str, path: Path) -> bool:
    """Fetch the index that lies beside a shard on a server; tell whether there is one."""
    if not is_http(name):
        return False
    try:
        download(look_up(name + INDEX_SUFFIX), path, progress=lambda num_bytes: None)
    except VideoLlamaError as error:
        get_logger().info("no index beside the shard, so it is read whole: %s", error)
        return False
    return True


def _compare(
    name: str, path: Path, header: ShardHeader, *, files: ShardFiles, thoroughness: Thoroughness
) -> None:
    """Refuse a shard that is not what its index was made of."""
    size: int | None = None
    is_younger = False
    if is_local(name):
        status = local_path(name).stat()
        size = status.st_size
        is_younger = status.st_mtime_ns > path.stat().st_mtime_ns
    elif is_http(name):
        size = look_up(name).size
    way_out = f"get it again, or delete {path} if it was changed on purpose"
    if size is not None and size != header.size:
        raise ConfigError(f"{name}: {size:,} bytes, its index says {header.size:,}; {way_out}")
    if thoroughness == "size" and not is_younger:
        return
    with files.open(name) as file:
        if checksum(file) != header.sha256:
            raise ConfigError(f"{name}: its bytes are not those its index was made of; {way_out}")
    if is_younger:
        # Seen to be the same: the next start need not read it again. No harm if it must.
        with contextlib.suppress(OSError):
            os.utime(path)


def _listed(problems: Sequence[str]) -> list[str]:
    """Keep as many problems as a screen can hold."""
    more = len(problems) - MAX_LISTED
    return [*problems[:MAX_LISTED], *([f"and {more} more shards like these"] if more > 0 else [])]
